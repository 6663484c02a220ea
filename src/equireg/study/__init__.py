"""The paper's open question: ways to train, which of their settings are taken, and the verdict."""
