"""What a model must keep before its numbers may count, as questions put to the built model."""
