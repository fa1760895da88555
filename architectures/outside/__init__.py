"""What is not ours: modules of the user, their code's identity, and files that claim things."""
