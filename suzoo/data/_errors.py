"""The exception for whatever is wrong with a user's data."""


class DataError(ValueError):
    """A mistake in data or in how it was named: one sentence that says where and what to do."""
