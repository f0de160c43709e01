"""What is wrong with a setting, said so that it can be put right."""


class ConfigError(ValueError):
    """A wrong setting: which key, which value, and what to do about it."""

    def __init__(self, key: str, value: object, remedy: str):
        super().__init__(f"{key} = {value!r}: {remedy}")
        self.key, self.value, self.remedy = key, value, remedy


def check(condition: bool, key: str, value: object, remedy: str) -> None:
    """A section names its own keys only; who builds it knows where it stands."""
    if not condition:
        raise ConfigError(key, value, remedy)
