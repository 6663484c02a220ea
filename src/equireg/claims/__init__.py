"""What the paper says of its figure 2: criteria, the authors' numbers, and the report on both."""
