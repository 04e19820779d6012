"""Exception groups as lists of the errors in them, for a line that names each."""


def flatten_group(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """Returns the errors in a group and in the groups inside it, in their order."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += flatten_group(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
