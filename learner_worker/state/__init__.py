"""What an operator does with a replica's state folder: look into it, verify it, make a file anew."""
