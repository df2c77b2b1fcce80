"""What training changes of a network."""
