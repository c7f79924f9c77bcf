{{/* Names: at most 63 characters, as a label's value and a DNS label may have. */}}
{{- define "graphtoken.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{/* The release's name stands for itself where it says what this is. */}}
{{- define "graphtoken.fullname" -}}
{{- $name := include "graphtoken.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains "graphtoken" .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* What never changes between versions: selectors cannot. */}}
{{- define "graphtoken.selector" -}}
app.kubernetes.io/name: {{ include "graphtoken.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "graphtoken.labels" -}}
{{ include "graphtoken.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "graphtoken.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "graphtoken.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "graphtoken.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end }}

{{/* IP:PORT, IPv6 in brackets. */}}
{{- define "graphtoken.listen" -}}
{{- $address := .Values.listen.address -}}
{{- if contains ":" $address }}{{ $address = printf "[%s]" $address }}{{ end -}}
{{- printf "%s:%d" $address (int .Values.listen.port) -}}
{{- end }}

{{/* Whom roles are bound to. */}}
{{- define "graphtoken.subjects" -}}
subjects:
  - kind: ServiceAccount
    name: {{ include "graphtoken.serviceAccount" . }}
    namespace: {{ .Release.Namespace }}
{{- end }}

{{/* What it needs wherever it serves GraphTokens. Secrets are written by create and patch; a right to update or to delete
     collections is of no use to it. */}}
{{- define "graphtoken.rules" -}}
- apiGroups: [graphtoken.io]
  resources: [graphtokens]
  verbs: [get, list, watch]
- apiGroups: [graphtoken.io]
  resources: [graphtokens/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- if .Values.rbac.restart }}
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [get, patch]
{{- end }}
{{- end }}

{{/* Whether ClusterGraphClients are served: as the operator itself decides it. */}}
{{- define "graphtoken.servesClients" -}}
{{- if or (not .Values.watchNamespaces) .Values.clientNamespace }}true{{ end -}}
{{- end }}

{{/* What the schema cannot see, since it is about two values. */}}
{{- define "graphtoken.check" -}}
{{- if .Values.watchNamespaces }}
{{- $served := append .Values.watchNamespaces .Values.clientNamespace }}
{{- range .Values.rbac.workloadIdentity }}
{{- if not (has .namespace $served) }}
{{- fail (printf "rbac.workloadIdentity names the service account %s in namespace %s, which is neither in watchNamespaces nor the clientNamespace: add it there, or take it out here" .name .namespace) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled (not .Values.service.enabled) }}
{{- fail "serviceMonitor.enabled needs service.enabled: Prometheus finds the pods by the Service" }}
{{- end }}
{{- $alone := has "--leader-election=false" .Values.extraArgs }}
{{- range .Values.extraEnv }}
{{- if and (eq .name "GRAPHTOKEN_LEADER_ELECTION") (eq (toString .value) "false") }}{{- $alone = true }}{{- end }}
{{- end }}
{{- if and $alone (or (gt (int .Values.replicas) 1) (ne (dig "type" "" .Values.updateStrategy) "Recreate")) }}
{{- fail "without leader election two pods would use the same sign-ins: set replicas to 0 or 1 and updateStrategy.type to Recreate, or leave the election on" }}
{{- end }}
{{- end }}
