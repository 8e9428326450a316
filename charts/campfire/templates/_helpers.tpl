{{/* The name of all that the chart makes for the operator. Fixed: the program's Lease, Services and webhook have fixed names too, and there is one operator in a cluster. */}}
{{- define "campfire.name" -}}campfire-operator{{- end }}

{{/* What an older release's values lack (helm upgrade --reuse-values) is as this chart has it. Resources are whole or not at all: who took a limit away wants none. */}}
{{- define "campfire.defaults" -}}
{{- $values := .Values }}
{{- range $name, $block := .Files.Get "files/values.yaml" | fromYaml }}
{{- if not (hasKey $values $name) }}{{ $_ := set $values $name $block }}
{{- else if and (kindIs "map" $block) (kindIs "map" (get $values $name)) }}
{{- range $key, $value := $block }}
{{- if and (ne $key "resources") (not (hasKey (get $values $name) $key)) }}{{ $_ := set (get $values $name) $key $value }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* There is one operator in a cluster: another release is told where the first one is. */}}
{{- define "campfire.alone" -}}
{{- with lookup "rbac.authorization.k8s.io/v1" "ClusterRole" "" (include "campfire.name" .) }}
{{- $name := dig "metadata" "annotations" "meta.helm.sh/release-name" "" . }}
{{- $namespace := dig "metadata" "annotations" "meta.helm.sh/release-namespace" "" . }}
{{- if and $name (or (ne $name $.Release.Name) (ne $namespace $.Release.Namespace)) }}
{{- fail (printf "Campfire is installed in this cluster already, as release %s in namespace %s, and one operator serves all of it: upgrade that one (helm upgrade %s -n %s), or uninstall it first" $name $namespace $name $namespace) }}
{{- end }}
{{- end }}
{{- end }}

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
