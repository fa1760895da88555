"""The trackers; a new one is a module here, whose class `Mirror` is a `mad.tracking.Tracker`."""
