"""The paper's theory, made executable."""
