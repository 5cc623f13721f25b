"""From raw image files to patches: readers, manifest, validation, splitting, preprocessing, shards. No networks."""
