"""Makes the challenger the champion, if it is better: the same function as `vigil promote`, from the Prefect UI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from vigil.config import load_params
from vigil.errors import PromotionRefused


@flow(name="promote", validate_parameters=True)
def promote(who: str, why: str, params: str = "params.yaml", accept_findings: tuple[str, ...] = ()) -> State[Any]:
    """Compares challenger and champion on the same test data and moves the alias, or ends in the state `Refused`.

    Args:
        who: The person who decides; kept in the history.
        why: The reason; kept in the history.
        params: The project's params file.
        accept_findings: Shortcuts in the data that the leakage audit found and that are accepted, for the reason `why`.
    """
    from vigil.delivery.promotion import promote as promote_challenger

    log = get_run_logger()
    settings = load_params(Path(params))
    try:
        result = promote_challenger(
            settings.registration, settings.promote, who=who, why=why, accept_findings=accept_findings
        )
    except PromotionRefused as refusal:
        log.error("%s", refusal)
        create_markdown_artifact(key="promotion", markdown=f"# Refused\n\n{refusal}\n")
        return Failed(name="Refused", message=str(refusal))
    log.info("%s", result.describe())
    create_markdown_artifact(key="promotion", markdown=f"# Promoted\n\n{result.describe()}\n")
    return Completed(name="Promoted", message=result.describe())
