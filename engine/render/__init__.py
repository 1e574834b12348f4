"""Drawing shared by the app, notebooks and exports: palette, token strip, visible text."""
