raise AssertionError("code of a record was run")
