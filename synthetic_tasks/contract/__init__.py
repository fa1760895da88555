"""What a task promises, as checks of one task: `mad check` and the tests ask these very questions."""
