#!/usr/bin/env bash
# Tests what makes a release: hack/release, with stand-ins for the six binaries, and what the workflows rely on. With krew where
# KREW and VALIDATE_KREW_MANIFEST name its programs, as hack/test/release.sh does. Usage: tests/hack/release_test.sh

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/check.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/check.sh"
cd -- "$ROOT"
REPOSITORY=https://example.com/graphtoken/graphtoken-operator
WORKFLOWS=(.github/workflows/*.yaml)
VERSION=$(version)
export SOURCE_DATE_EPOCH=1700000000

# ---- versions and notes ----------------------------------------------------------------------------------------------

all_places_state_one_version() { equals "$(hack/release/version.sh "v$VERSION")" "$VERSION"; }
# edited FILE SED-SCRIPT: a copy of what states the version, with one of it changed.
edited() {
  export RELEASE_ROOT=$T/edited
  rm -rf -- "$RELEASE_ROOT"
  mkdir -p -- "$RELEASE_ROOT"
  cp --parents -t "$RELEASE_ROOT" -- Cargo.toml Cargo.lock CHANGELOG.md charts/graphtoken-operator/Chart.yaml
  sed -i "$2" "$RELEASE_ROOT/$1"
  fails cmp "$1" "$RELEASE_ROOT/$1" >/dev/null
}
# differs FILE SED-SCRIPT TEXT: so changed it is refused, and TEXT says where.
differs() {
  edited "$1" "$2"
  fails hack/release/version.sh >"$T/said" 2>&1
  has "$T/said" "$3"
}
a_place_that_differs_is_named() {
  differs Cargo.lock '/^name = "graphtoken"$/,/^version/s/^version = .*/version = "9.9.9"/' 'Cargo.lock says 9.9.9'
  differs charts/graphtoken-operator/Chart.yaml 's/^version: .*/version: 9.9.9/' 'Chart.yaml (version) says 9.9.9'
  differs charts/graphtoken-operator/Chart.yaml 's/^appVersion: .*/appVersion: "9.9.9"/' 'Chart.yaml (appVersion) says 9.9.9'
  differs CHANGELOG.md 's/^## \[Unreleased\]/&\n\n## [9.9.9] - 2030-01-01/' 'CHANGELOG.md says 9.9.9'
  differs CHANGELOG.md '/^## \[0/d' 'CHANGELOG.md says nothing'
  differs Cargo.toml 's/^version = .*/version = "9.9"/' 'no semantic version'
}
a_tag_of_another_version_is_refused() {
  fails hack/release/version.sh v9.9.9 >"$T/said" 2>&1
  has "$T/said" 'the tag says 9.9.9'
}
write_changelog() {
  export RELEASE_ROOT=$T/changes
  mkdir -p -- "$RELEASE_ROOT"
  cat >"$RELEASE_ROOT/CHANGELOG.md" <<'MARKDOWN'
# Changelog

## [Unreleased]

- not yet

## [1.10.0] - 2030-01-02

### Added

- one, see [there]

- two

## [1.1.0] - 2030-01-01

- three

[Unreleased]: https://example.com/u
[1.1.0]: https://example.com/1
MARKDOWN
}
notes_are_the_section_of_the_version_alone() {
  write_changelog
  equals "$(hack/release/notes.sh v1.10.0)" $'### Added\n\n- one, see [there]\n\n- two'
  equals "$(hack/release/notes.sh 1.1.0)" '- three'
  local version
  for version in 1.1 2.0.0 0.1.0; do
    fails hack/release/notes.sh "$version" >"$T/said" 2>&1
    has "$T/said" "CHANGELOG.md says nothing of $version"
  done
}
this_version_has_notes() { (($(hack/release/notes.sh "$VERSION" | wc -l) > 3)); }

# ---- archives and krew -----------------------------------------------------------------------------------------------

# binaries FOLDER: each prints what it was built for.
binaries() {
  local os architecture folder
  for os in linux darwin windows; do
    for architecture in amd64 arm64; do
      folder=$1/plugin-$os-$architecture
      mkdir -p -- "$folder"
      # As artifacts come from another job: not executable.
      printf '#!/bin/sh\necho for %s %s\n' "$os" "$architecture" >"$folder/kubectl-graphtoken"
      if [[ $os == windows ]]; then mv -- "$folder/kubectl-graphtoken" "$folder/kubectl-graphtoken.exe"; fi
    done
  done
}
NAME=kubectl-graphtoken-v$VERSION
an_archive_holds_the_binary_and_the_licence() {
  local archive
  archive=$(hack/release/archive.sh "$T/in/plugin-linux-arm64/kubectl-graphtoken" linux arm64 "$T/one")
  equals "$archive" "$T/one/$NAME-linux-arm64.tar.gz"
  equals "$(tar -tvzf "$archive" | awk '{print $1, $2, $NF}')" $'-rw-r--r-- 0/0 LICENSE\n-rwxr-xr-x 0/0 kubectl-graphtoken'
  tar -xzf "$archive" -C "$T/one"
  equals "$("$T/one/kubectl-graphtoken")" 'for linux arm64'
  cmp LICENSE "$T/one/LICENSE"
}
one_for_windows_is_a_zip() {
  local archive
  archive=$(hack/release/archive.sh "$T/in/plugin-windows-amd64/kubectl-graphtoken.exe" windows amd64 "$T/one")
  equals "$archive" "$T/one/$NAME-windows-amd64.zip"
  python3 -m zipfile -t "$archive"
  equals "$(python3 -c 'import sys, zipfile; print(*zipfile.ZipFile(sys.argv[1]).namelist())' "$archive")" 'LICENSE kubectl-graphtoken.exe'
  python3 -m zipfile -e "$archive" "$T/zip"
  cmp "$T/zip/kubectl-graphtoken.exe" "$T/in/plugin-windows-amd64/kubectl-graphtoken.exe"
}
what_cannot_be_archived_is_refused() {
  local binary=$T/in/plugin-linux-arm64/kubectl-graphtoken
  fails hack/release/archive.sh "$T/in/none" linux arm64 "$T/one" 2>"$T/said"
  has "$T/said" "There is no program $T/in/none"
  fails hack/release/archive.sh "$binary" plan9 arm64 "$T/one" 2>"$T/said"
  has "$T/said" 'plan9 is no system'
  fails hack/release/archive.sh "$binary" linux x86_64 "$T/one" 2>"$T/said"
  has "$T/said" 'x86_64 is no architecture'
}
all_files_of_a_release_are_made() {
  hack/release/gather.sh "$T/in" "$T/out" "$REPOSITORY"
  {
    printf 'SHA256SUMS\ngraphtoken-operator.yaml\ngraphtoken.yaml\n'
    printf '%s\n' "$NAME"-{darwin,linux}-{amd64,arm64}.tar.gz "$NAME"-windows-{amd64,arm64}.zip
  } | LC_ALL=C sort >"$T/wanted"
  diff "$T/wanted" <(cd -- "$T/out" && LC_ALL=C ls)
}
checksums_are_of_all_of_them() {
  (cd -- "$T/out" && sha256sum --check --strict SHA256SUMS)
  equals "$(wc -l <"$T/out/SHA256SUMS")" 8
  # In no folder, so that they can be checked where they were downloaded to.
  fails grep / "$T/out/SHA256SUMS"
}
the_same_binaries_give_the_same_files() {
  touch "$T"/in/*/*
  hack/release/gather.sh "$T/in" "$T/again" "$REPOSITORY"
  diff -r "$T/out" "$T/again"
}
a_binary_that_is_missing_ends_it() {
  cp -R -- "$T/in" "$T/few"
  rm -r -- "$T/few/plugin-darwin-arm64"
  fails hack/release/gather.sh "$T/few" "$T/partly" "$REPOSITORY" 2>"$T/said"
  has "$T/said" 'There is no program'
  rm -- "$T/again/$NAME-darwin-arm64.tar.gz"
  fails hack/release/krew.sh "$T/again" "$REPOSITORY" 2>"$T/said"
  has "$T/said" "There is no archive $T/again/$NAME-darwin-arm64.tar.gz"
}
# The chart's program reads YAML; there is no other here. As JSON in $T/krew.json.
read_manifest() {
  mkdir -p -- "$T/reader/templates"
  printf 'apiVersion: v2\nname: reader\nversion: 0.0.0\n' >"$T/reader/Chart.yaml"
  cp -- "$T/out/graphtoken.yaml" "$T/reader/manifest.yaml"
  echo '{{ .Files.Get "manifest.yaml" | fromYaml | toJson }}' >"$T/reader/templates/manifest.yaml"
  hack/chart/helm.sh template reader "$T/reader" | grep -v '^[-#]' >"$T/krew.json"
}
krews_manifest_has_the_checksum_of_each_archive() {
  read_manifest
  jq -e --arg v "v$VERSION" '.apiVersion == "krew.googlecontainertools.github.com/v1alpha2" and .kind == "Plugin"
    and .metadata.name == "graphtoken" and .spec.version == $v and (.spec.shortDescription | length > 0 and length <= 50)
    and (.spec.platforms | length == 6)' "$T/krew.json"
  jq -r '.spec.platforms[] | "\(.sha256)  \(.uri)"' "$T/krew.json" | sed "s|$REPOSITORY/releases/download/v$VERSION/||" | tee "$T/sums"
  (cd -- "$T/out" && sha256sum --check --strict "$T/sums")
  # Each for the platform that its name says, with the program that is in it.
  jq -e '.spec.platforms | all(. as $p | .selector.matchLabels as $l
    | ($p.uri | contains("-\($l.os)-\($l.arch).")) and $p.bin == "kubectl-graphtoken" + (if $l.os == "windows" then ".exe" else "" end)
    and [$p.files[].from] == [$p.bin, "LICENSE"])' "$T/krew.json"
}
krew_takes_the_manifest() { "$VALIDATE_KREW_MANIFEST" -skip-install -manifest "$T/out/graphtoken.yaml"; }
krew_installs_the_plugin_from_the_archive() {
  local architecture
  case $(uname -m) in x86_64) architecture=amd64 ;; *) architecture=arm64 ;; esac
  # It wants an index to be there, though none has a part in this.
  export KREW_ROOT=$T/krew HOME=$T GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
  git init --quiet "$KREW_ROOT/index/default"
  git -C "$KREW_ROOT/index/default" remote add origin "$T/no-index"
  mkdir -p -- "$KREW_ROOT/index/default/plugins"
  "$KREW" install --no-update-index --manifest "$T/out/graphtoken.yaml" --archive "$T/out/$NAME-linux-$architecture.tar.gz"
  equals "$("$KREW_ROOT/bin/kubectl-graphtoken")" "for linux $architecture"
  "$KREW" list | tee "$T/listed"
  has "$T/listed" graphtoken
}

# ---- what the workflows rely on --------------------------------------------------------------------------------------

actions_are_pinned_to_a_commit_whose_version_is_told() {
  grep -hoE '\buses: .*' "${WORKFLOWS[@]}" | grep -v '^uses: \./' >"$T/uses"
  (($(wc -l <"$T/uses") > 5))
  fails grep -vE '^uses: [A-Za-z0-9/_-]+@[0-9a-f]{40} # v[0-9]+\.[0-9]+\.[0-9]+$' "$T/uses"
  # One action has one commit everywhere.
  equals "$(sort -u "$T/uses" | wc -l)" "$(sed 's/@.*//' "$T/uses" | sort -u | wc -l)"
}
no_workflow_has_rights_but_what_a_job_names() {
  local workflow
  for workflow in "${WORKFLOWS[@]}"; do
    shows "$workflow" '^permissions: \{\}$'
    awk '
      function judge() {if (job != "" && !named) {print FILENAME ": " job; bad = 1}}
      /^jobs:$/ {jobs = 1; next}
      jobs && /^  [a-z-]+:$/ {judge(); job = $1; named = 0; count++}
      jobs && /^    permissions:$/ {named = 1}
      END {judge(); exit bad || !count}' "$workflow"
  done
}
scripts_that_workflows_run_are_there() {
  local script
  grep -hoE 'hack/[a-z/-]+\.sh' "${WORKFLOWS[@]}" | sort -u >"$T/scripts"
  (($(wc -l <"$T/scripts") >= 4))
  while read -r script; do [[ -x $script ]] || { echo "not there: $script"; return 1; }; done <"$T/scripts"
}
ci_is_make_test() { shows .github/workflows/ci.yaml ' make test$'; }
the_image_that_is_pushed_is_the_one_that_the_chart_names() {
  local image
  image=$(sed -n '/^image:/,/^[a-z]/ s/^  repository: *//p' charts/graphtoken-operator/values.yaml)
  equals "$(sed -n 's/^  IMAGE: *//p' .github/workflows/release.yaml)" "$image"
}
the_chart_is_packaged_under_the_name_that_is_pushed() {
  hack/chart/helm.sh package charts/graphtoken-operator --destination "$T/package"
  [[ -s $T/package/graphtoken-operator-$VERSION.tgz ]]
}

binaries "$T/in"
BEHAVIOURS=(all_places_state_one_version a_place_that_differs_is_named a_tag_of_another_version_is_refused
  notes_are_the_section_of_the_version_alone this_version_has_notes
  an_archive_holds_the_binary_and_the_licence one_for_windows_is_a_zip what_cannot_be_archived_is_refused
  all_files_of_a_release_are_made checksums_are_of_all_of_them the_same_binaries_give_the_same_files a_binary_that_is_missing_ends_it
  krews_manifest_has_the_checksum_of_each_archive
  actions_are_pinned_to_a_commit_whose_version_is_told no_workflow_has_rights_but_what_a_job_names scripts_that_workflows_run_are_there
  ci_is_make_test the_image_that_is_pushed_is_the_one_that_the_chart_names the_chart_is_packaged_under_the_name_that_is_pushed)
if [[ -n ${KREW:-} && -n ${VALIDATE_KREW_MANIFEST:-} ]]; then
  BEHAVIOURS+=(krew_takes_the_manifest krew_installs_the_plugin_from_the_archive)
fi
for behaviour in "${BEHAVIOURS[@]}"; do check "${behaviour//_/ }" "$behaviour"; done
conclude
