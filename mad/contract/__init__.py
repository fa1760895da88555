"""The contract of a layer as questions put to small inputs, which `mad check` asks of a layer."""
