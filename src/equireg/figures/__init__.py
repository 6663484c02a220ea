"""What is drawn, and how it looks."""
