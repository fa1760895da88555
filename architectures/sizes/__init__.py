"""How large things are: accounts of models, sizes that reach a goal, bounds."""
