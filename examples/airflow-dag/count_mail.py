"""An Airflow DAG whose tasks use the mounted token.

Choose it where DAGs are yours but not the pods that run them: with the Secret mounted for all workers (values.yaml beside
this file), a DAG needs no connection, no secret and no sign-in of its own.

Airflow's own Microsoft Graph hook takes a client's secret or certificate, and no token; so this is python-o365.
"""

from datetime import UTC, datetime, timedelta

from airflow.sdk import dag, task

CLIENT_ID = "11111111-2222-3333-4444-555555555555"
TENANT_ID = "aaaabbbb-0000-cccc-1111-dddd2222eeee"  # the tenant's GUID, not its domain


@dag(
    schedule="@hourly",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    # Microsoft Graph throttles, and is away for a moment now and then.
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
    tags=["microsoft-graph"],
)
def count_mail() -> None:
    @task
    def unread_mails() -> int:
        # In here: Airflow loads this file every few seconds, where neither package nor token has to be.
        from graphtoken.o365 import MountedTokenBackend
        from O365 import Account

        backend = MountedTokenBackend(token_path="/var/run/graph", token_filename="o365_token.txt")
        account = Account(CLIENT_ID, auth_flow_type="public", tenant_id=TENANT_ID, token_backend=backend)
        inbox = account.connection.get("https://graph.microsoft.com/v1.0/me/mailFolders/inbox").json()
        return inbox["unreadItemCount"]

    @task
    def report(unread: int) -> None:
        print(f"{unread} unread mails")

    report(unread_mails())


count_mail()
