"""From numbers to a version that serves: the bundle, its registration, promotion and report."""
