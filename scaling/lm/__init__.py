"""Language models: text, tokens, training."""
