{{/* The name of all that the chart makes. Fixed: the driver has a fixed name too, and there is one in a cluster. */}}
{{- define "node.name" -}}campfire-node{{- end }}

{{- define "node.selectorLabels" -}}
app.kubernetes.io/name: campfire-node
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "node.labels" -}}
{{ include "node.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: node
app.kubernetes.io/part-of: campfire
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The image by digest, else by tag. */}}
{{- define "node.image" -}}
{{- with .Values.image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* There is one agent on a node: another release is told where the first one is. */}}
{{- define "node.alone" -}}
{{- with lookup "storage.k8s.io/v1" "CSIDriver" "" "node.campfire.network" }}
{{- $name := dig "metadata" "annotations" "meta.helm.sh/release-name" "" . }}
{{- $namespace := dig "metadata" "annotations" "meta.helm.sh/release-namespace" "" . }}
{{- if and $name (or (ne $name $.Release.Name) (ne $namespace $.Release.Namespace)) }}
{{- fail (printf "Campfire's node agent is installed in this cluster already, as release %s in namespace %s: upgrade that one (helm upgrade %s -n %s), or uninstall it first" $name $namespace $name $namespace) }}
{{- end }}
{{- end }}
{{- end }}
