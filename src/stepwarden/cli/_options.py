"""The options that several commands have, each with its help."""

from typing import Annotated

from cyclopts import Parameter

DEFAULT_LEDGER = "by default $STEPWARDEN_LEDGER, else .stepwarden/ledger.db"

Ledger = Annotated[str | None, Parameter(help=f"The ledger's file; {DEFAULT_LEDGER}.")]
WrittenLedger = Annotated[str | None, Parameter(help=f"The file to record everything in; {DEFAULT_LEDGER}.")]
Sign = Annotated[
    str | None, Parameter(help="The private key file to sign the run's records with; `keys new` makes one.")
]
Debug = Annotated[bool, Parameter(help="Show the traceback of an error.")]
