#!/bin/sh
# Copies what is in a OneDrive with rclone and a mounted oauth2.json, without any configuration file, and reports what came
# of it as one JSON object. Ends with 0 only if rclone listed the drive and copied its files.
# The token goes to rclone by its environment: on a command line everybody on the machine would see it.
# Usage: rclone_check.sh TOKEN_DIR DRIVE_ID FOLDER      FOLDER: where to copy to; RCLONE_CA_CERT: an authority of one's own
set -u
if [ ! -r "$1/oauth2.json" ]; then
  echo '{"error": "oauth2.json cannot be read"}'
  exit 1
fi
token=$(cat "$1/oauth2.json")
sent=$(printf %s "$token" | sed 's/.*"access_token": *"\([^"]*\)".*/\1/' | tr -d '\n' | sha256sum | cut -d ' ' -f 1)
export RCLONE_ONEDRIVE_TOKEN="$token" RCLONE_ONEDRIVE_DRIVE_ID="$2" RCLONE_ONEDRIVE_DRIVE_TYPE=business
export RCLONE_CONFIG=/dev/null NO_PROXY='*'
listed=$(rclone lsf --retries 1 --low-level-retries 1 :onedrive:) && rclone copy --retries 1 --low-level-retries 1 :onedrive: "$3"
code=$?
files=$(printf '%s\n' "$listed" | sed -n 's/["\\]/\\&/g; s/..*/"&"/p' | paste -s -d, -)
printf '{"files": [%s], "file_bearer_sha256": "%s", "rclone_exit": %d}\n' "$files" "$sent" "$code"
exit "$code"
