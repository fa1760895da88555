"""One file an idea; every module here is imported when a primitive is first looked up."""
