{{/* Peers of a rule, as a YAML list. Takes a mapping of `namespaces` and `cidrs`. */}}
{{- define "advgrpo.peers" -}}
{{- $peers := list -}}
{{- range .namespaces -}}
{{- $peers = append $peers (dict "namespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" .))) -}}
{{- end -}}
{{- range .cidrs -}}
{{- $peers = append $peers (dict "ipBlock" (dict "cidr" .)) -}}
{{- end -}}
{{- $peers | toYaml -}}
{{- end }}

{{/* Rule for a destination, as a YAML list of one. Takes `to` (a mapping of `namespaces`, `cidrs` and
     `ports`), `url` (whose port is the default) and `protocols` (default TCP). */}}
{{- define "advgrpo.egress" -}}
{{- $rule := dict -}}
{{- with include "advgrpo.peers" .to | fromYamlArray -}}
{{- $_ := set $rule "to" . -}}
{{- end -}}
{{- $ports := .to.ports -}}
{{- if and .url (not $ports) -}}
{{- $url := urlParse .url -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $ports = list (default (ternary 80 443 (eq $url.scheme "http")) (int $port)) -}}
{{- end -}}
{{- with $ports -}}
{{- $listed := list -}}
{{- range $port := . -}}
{{- range default (list "TCP") $.protocols -}}
{{- $listed = append $listed (dict "protocol" . "port" $port) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $rule "ports" $listed -}}
{{- end -}}
{{- list $rule | toYaml -}}
{{- end }}

{{- define "advgrpo.toS3" -}}
{{- include "advgrpo.egress" (dict "to" .Values.networkPolicies.s3 "url" (default "https://s3.amazonaws.com" .Values.s3.endpoint)) -}}
{{- end }}

{{- define "advgrpo.toMlflow" -}}
{{- if .Values.mlflow.server.enabled -}}
- to:
    - podSelector:
        {{- include "advgrpo.podsOf" (list "mlflow") | nindent 8 }}
  ports:
    - protocol: TCP
      port: {{ .Values.mlflow.server.port }}
{{- else -}}
{{- include "advgrpo.egress" (dict "to" .Values.networkPolicies.mlflow "url" .Values.mlflow.trackingUri) -}}
{{- end -}}
{{- end }}

{{- define "advgrpo.toKubeflow" -}}
{{- include "advgrpo.egress" (dict "to" .Values.networkPolicies.kubeflow) -}}
{{- end }}

{{- define "advgrpo.toApiServer" -}}
{{- include "advgrpo.egress" (dict "to" .Values.networkPolicies.apiServer) -}}
{{- end }}

{{/* Selector of the pods of components. It does not name the release: jobs and tasks have none. */}}
{{- define "advgrpo.podsOf" -}}
matchLabels:
  app.kubernetes.io/part-of: advgrpo
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: {{ . | toJson }}
{{- end }}

{{/* Head of a policy. Takes `root`, `name` and `components`. */}}
{{- define "advgrpo.policy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "advgrpo.metadata" (dict "root" .root "component" "network" "name" (printf "%s-%s" (include "advgrpo.fullname" .root) .name)) | nindent 2 }}
spec:
  policyTypes: [Ingress, Egress]
  podSelector:
    {{- include "advgrpo.podsOf" .components | nindent 4 }}
{{- end }}
