"""How each page of the docs is run. A page that is not here must have its commands in ELSEWHERE."""

from coverage import Elsewhere, On, Setting

# -- What a page's commands find ---------------------------------------------------------------------------------------

VALUES = "--values .playground/values.yaml"
RELEASE = "graphtoken-operator charts/graphtoken-operator --namespace graphtoken-system"
INSTALL = f"helm install {RELEASE} --create-namespace --wait --timeout 2m {VALUES}"
UNINSTALL = "helm uninstall graphtoken-operator --namespace graphtoken-system --wait --ignore-not-found"
# Before each page: nothing of the one before it.
AFRESH = (
    "kubectl delete graphtokens --all --all-namespaces --ignore-not-found --timeout=60s 2>/dev/null || true",
    UNINSTALL,
    "kubectl delete namespace pipelines mail argocd graphtoken-system --ignore-not-found --timeout=120s",
    "kubectl delete crd graphtokens.graphtoken.io clustergraphclients.graphtoken.io --ignore-not-found --timeout=60s",
)
OPERATOR = (INSTALL, "kubectl apply -f .playground/client.yaml", "kubectl create namespace pipelines")
# The sign-in of a user, as a file that the operator takes.
SEED = (
    "curl -sf --noproxy '*' -d '{}' \"$SIMULATOR/_sim/refresh-tokens\" | jq -j .refresh_token >o365_token.txt",
    "kubectl -n pipelines create secret generic seed --from-file=token=o365_token.txt",
)
# The same as a program of MSAL leaves it, with tenant, client and scopes in it.
TOKEN_FILE = (
    *OPERATOR,
    *SEED,
    "kubectl patch --local -f examples/cluster-client/graphtoken.yaml -o yaml --type merge -p"
    """ '{"metadata": {"name": "before"}, "spec": {"target": {"includeRefreshToken": true}}}' | kubectl -n pipelines apply -f -""",
    "kubectl -n pipelines wait graphtoken/before --for=condition=Ready --timeout=60s",
    r"kubectl -n pipelines get secret before -o jsonpath='{.data.o365_token\.txt}' | base64 -d >o365_token.txt",
    "kubectl -n pipelines delete graphtoken/before secret/seed",
)
# A GraphToken of the client "default", which leads to the simulator.
GRAPHTOKEN = (
    "kubectl -n pipelines apply -f examples/cluster-client/graphtoken.yaml",
    "kubectl -n pipelines wait graphtoken/mail-etl --for=condition=Ready --timeout=60s",
)
SIGNED_IN = (
    *OPERATOR,
    *SEED,
    *GRAPHTOKEN,
)
# One that waits for a user.
WAITING = (
    "kubectl -n pipelines delete graphtoken mail-etl --ignore-not-found",
    # Or the sign-in of one of the same name is taken up.
    "kubectl -n pipelines delete secret mail-etl-graphtoken-credential --ignore-not-found",
    "kubectl -n pipelines apply -f docs/getting-started/graphtoken.yaml",
)
CODE = On(r"status.deviceCode", before=WAITING, shows=("userCode",))

# Who takes a silence.
ALERTMANAGER = (
    "setsid tests/docs/silences.py charts/graphtoken-operator/files/alerts.yaml </dev/null >../silences 2>../silences.log &"
    " echo $! >../silences.pid",
    "timeout 30 bash -c 'until [[ -s ../silences ]]; do sleep 0.1; done'",
    "export ALERTMANAGER=$(<../silences)",
)
NO_ALERTMANAGER = ('kill "$(<../silences.pid)"',)
SILENCES = On(
    r"^amtool ", replace=((r"^amtool", 'amtool --alertmanager.url="$ALERTMANAGER"'),), shows=(r"(?m)^[0-9a-f-]{36}$",)
)

# On this machine: what the chart must be told, and where files are.
HERE = On(r"^helm (install|upgrade|template) ", replace=((r"^(helm \w+ .*)$", rf"\1 {VALUES}"),))

# -- Pages that are run ------------------------------------------------------------------------------------------------

GUIDE = "docs/getting-started.md"

SETTINGS = {
    "README.md": Setting(
        fixture=SIGNED_IN,
        on=(On(r"^kubectl get graphtokens", shows=(r"mail-etl +True +TokenValid",)),),
    ),
    GUIDE: Setting(on=(On(r"sha256sum", changes=True),)),
    "charts/graphtoken-operator/README.md": Setting(
        fixture=("kubectl create namespace pipelines",),
        on=(HERE,),
    ),
    "docs/install.md": Setting(
        on=(
            HERE,
            On(
                r"watchNamespaces=",
                before=(UNINSTALL, "kubectl create namespace mail", "kubectl create namespace pipelines"),
            ),
            On(r"^kubectl apply --server-side -f deploy/", before=(UNINSTALL,)),
            On(
                r"graphtoken run",
                # Its port is on loopback here.
                replace=((r"^target/release/graphtoken", "GRAPHTOKEN_LISTEN=127.0.0.1:0 graphtoken"),),
                until=" address=",
            ),
            On(
                r"^helm upgrade ",
                before=(
                    # Its pods have no network here, and would be waited for.
                    "kubectl -n graphtoken-system delete deployment graphtoken-operator --cascade=orphan",
                    "kubectl -n graphtoken-system delete replicaset --all --cascade=orphan",
                    "kubectl -n graphtoken-system delete pods --all --force --grace-period=0",
                    "kubectl delete -f deploy/ --ignore-not-found --timeout=2m",
                    INSTALL,
                ),
            ),
            On(r"^helm template ", replace=((r"--values yours.yaml ", ""),)),
            On(r"rollout restart", before=(INSTALL,)),
            On(r"create configmap corporate-ca", before=("cp .cluster/pki/ca.crt ca-bundle.crt",)),
        ),
    ),
    "clients/python/README.md": Setting(
        fixture=("python3 -m venv ../venv", 'export PATH="$(cd ../venv && pwd)/bin:$PATH"'),
    ),
    "docs/runbooks/*.md": Setting(
        fixture=(
            *SIGNED_IN,
            *ALERTMANAGER,
            "kubectl -n pipelines create secret tls app --cert=tests/pki/client.crt --key=tests/pki/client.key",
        ),
        on=(
            SILENCES,
            On(r"openssl x509", shows=("notAfter=",)),
            # None has ended here.
            On(
                r"logs --previous POD",
                replace=((r"POD", "$(kubectl -n graphtoken-system get pods -o name)"),),
                status=1,
                shows=("previous terminated container .* not found",),
            ),
            On(r"=FILE$", replace=(("FILE", "o365_token.txt"),)),
        ),
        after=NO_ALERTMANAGER,
    ),
    "docs/entra.md": Setting(
        fixture=(INSTALL, "kubectl apply -f .playground/client.yaml", SEED[0]),
        on=(
            On(r"graphtoken login", before=WAITING),
            CODE,
            # It goes on waiting for the user.
            On(r"graphtoken refresh", status=1, shows=("and enter the code",)),
            On(r"=secret\.txt", before=("printf of-an-app >secret.txt",)),
        ),
    ),
    "docs/README.md": Setting(fixture=(INSTALL,)),
    "docs/reference.md": Setting(fixture=(INSTALL,)),
    "examples/README.md": Setting(
        fixture=SIGNED_IN, on=(On(r"^kubectl get", replace=((r"^kubectl", "kubectl -n pipelines"),)),)
    ),
    "docs/gitops.md": Setting(fixture=(*OPERATOR, *SEED)),
    "docs/migration.md": Setting(
        fixture=TOKEN_FILE,
        on=(
            On(r"--dry-run$", shows=("kind: GraphToken", "clientId: 1+-", "tenant: ", "Mail.Read")),
            On(r"import .* apply", replace=((r"--name mail-etl", "--name mail-etl --client-ref default"),)),
            On(r"status.signedIn.source", shows=("^Seed 0+",)),
            On(r"graphtoken login", before=WAITING),
            On(r"base64 -d", shows=('"RefreshToken"',)),
        ),
    ),
    "docs/troubleshooting.md": Setting(fixture=SIGNED_IN, on=(CODE,)),
    "docs/plugin.md": Setting(
        fixture=(
            *TOKEN_FILE,
            "kubectl -n pipelines create secret generic seed --from-file=token=o365_token.txt",
            *GRAPHTOKEN,
        ),
        on=(
            On(r"graphtoken status", shows=(r"pipelines +mail-etl +True +TokenValid",)),
            On(r"graphtoken login mail-etl", shows=("the operator has taken up the sign-in",)),
            # A bare refresh token does not tell its client.
            On(
                r"graphtoken import",
                replace=((r"--name mail-etl", "--name mail-etl -n pipelines --client-ref default"),),
            ),
            On(r"graphtoken doctor", shows=("an operator works", "the token endpoint answers from here")),
        ),
    ),
}

# -- Commands that other tests run -------------------------------------------------------------------------------------

ALL = "hack/test/all.sh"
LIVE = "tests/prometheus/live_test.sh"
ELSEWHERE = (
    Elsewhere("*.md", r"make demo( KEEP=1)?", "tests/demo_test.sh", "make -s demo"),
    Elsewhere("*.md", r"make build", "hack/test/all.sh", "make -s build"),
    Elsewhere("*.md", r"make test", ".ci/run", "make test"),
    Elsewhere("docs/runbooks/GraphToken*.md", r"kubectl .*", LIVE, "docs/runbooks/GraphToken*.md", ("Look", "Do")),
    Elsewhere("contrib/argocd/README.md", r"kubectl .*", LIVE, "contrib/argocd/README.md"),
)

# -- Manifests ---------------------------------------------------------------------------------------------------------

# Kinds of other projects: the API server of the tests does not know them, so they are only parsed.
FOREIGN = {
    "Application": "Argo CD",
    "ApplicationSet": "Argo CD",
    "AppProject": "Argo CD",
    "Kustomization": "Flux, or kustomize",
    "GitRepository": "Flux",
    "OCIRepository": "Flux",
    "HelmRelease": "Flux",
    "HelmRepository": "Flux",
    "ServiceMonitor": "the Prometheus Operator",
    "ExternalSecret": "External Secrets",
    "SealedSecret": "Sealed Secrets",
    "Certificate": "cert-manager",
}
