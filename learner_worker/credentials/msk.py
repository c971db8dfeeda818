"""Tokens for AWS MSK with IAM, for `--sasl-oauth-provider learner_worker.credentials.msk:token`."""

import os
import threading
from functools import cache

try:
    from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
    from botocore.credentials import CredentialProvider, ReadOnlyCredentials
    from botocore.session import Session
except ImportError as error:
    raise ImportError(f"{error}; run: pip install 'learner-worker[msk]'") from error

from learner_worker.errors import ConfigurationError


class SessionCredentials(CredentialProvider):
    """The credentials that AWS gives this process, found as AWS's own tools find them.

    One session serves all logins: it asks the machine or STS anew only when what it has is about to expire.
    """

    def __init__(self) -> None:
        super().__init__()
        self._session = Session()
        self._one_at_a_time = threading.Lock()

    def load(self) -> ReadOnlyCredentials:
        """Returns credentials that are valid now.

        Raises:
            ConfigurationError: there are none.
        """
        with self._one_at_a_time:
            credentials = self._session.get_credentials()
        if credentials is None:
            raise ConfigurationError(
                "AWS gives this process no credentials: give it an IAM role, or set AWS_PROFILE"
            )
        return credentials.get_frozen_credentials()


def token() -> str:
    """A token for one login in the region of AWS_REGION, signed in this process and valid for 15 minutes.

    Raises:
        ConfigurationError: no region is set, or there are no credentials.
    """
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:
        raise ConfigurationError("set AWS_REGION to the region of the MSK cluster")
    signed, _ = MSKAuthTokenProvider.generate_auth_token_from_credentials_provider(
        region, shared_credentials()
    )
    return str(signed)


@cache
def shared_credentials() -> SessionCredentials:
    """The credentials of all logins of this process."""
    return SessionCredentials()
