"""One file per idea; every module here is imported when a primitive is first looked up."""
