"""From records to scores with intervals."""
