# The operator's image: one binary, the libraries that it needs, CA roots and licences; no shell, nothing that could be
# written to, and a user that is not root. Two ways lead to it, and both end in the same last stage:
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION=0.1.0 --tag NAME --push .
#                             all is built in here; docker and buildah can
#   hack/image/build.sh       no registry: the files are this machine's, given as a build context in the place of `files`
# Exactly, for the same source is to give the same binary.
ARG RUST=1.95.0
# For the SBOM, where one is asked for: the image has neither a list of packages nor Cargo.lock. The context has the one and the
# stage that builds the other.
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true

# Each platform's on that platform, natively or emulated: so what is copied is what was linked to.
FROM docker.io/library/rust:${RUST}-bookworm AS built
ARG BUILDKIT_SBOM_SCAN_STAGE=true
ARG TARGETARCH
WORKDIR /source
COPY . .
# A folder for each architecture, should builders share it.
RUN CARGO_TARGET_DIR=/target/${TARGETARCH} hack/build.sh --bin graphtoken
RUN hack/image/files.sh /target/${TARGETARCH}/release/graphtoken /files

FROM scratch AS files
COPY --from=built /files /

FROM scratch
ARG VERSION=unreleased
LABEL org.opencontainers.image.title="graphtoken-operator" \
  org.opencontainers.image.description="Keeps Microsoft Graph access tokens fresh in Kubernetes Secrets" \
  org.opencontainers.image.licenses="Apache-2.0" \
  org.opencontainers.image.version="${VERSION}"
COPY --from=files / /
# By number, so that a kubelet can tell that it is not root. Any other will do as well: OpenShift gives one of its own.
USER 65532:65532
ENTRYPOINT ["/graphtoken"]
CMD ["run"]
