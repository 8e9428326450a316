{{/* The name of all that the chart makes for the operator. Fixed: the program's Lease, Services and webhook have fixed names too, and there is one operator in a cluster. */}}
{{- define "campfire.name" -}}campfire-operator{{- end }}

{{- define "campfire.selectorLabels" -}}
app.kubernetes.io/name: campfire-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "campfire.labels" -}}
{{ include "campfire.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: campfire
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* An image by digest, else by tag. Called with (list root image). */}}
{{- define "campfire.image" -}}
{{- $root := index . 0 }}{{ $image := index . 1 -}}
{{- with $root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* Namespaces whose pods are never injected. */}}
{{- define "campfire.excluded" -}}
{{- concat (list "kube-system" .Release.Namespace) .Values.webhook.excludedNamespaces | uniq | toJson }}
{{- end }}
