{{/* Prefix of the names of objects, short enough for the longest suffix. */}}
{{- define "advgrpo.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 36 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Labels that select pods of a component. Takes `root` and `component`. */}}
{{- define "advgrpo.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of an object. Takes `root` and `component`. */}}
{{- define "advgrpo.labels" -}}
{{ include "advgrpo.selector" . }}
app.kubernetes.io/part-of: advgrpo
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Name, namespace and labels of an object. Takes `root`, `component` and `name`. */}}
{{- define "advgrpo.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "advgrpo.labels" . | nindent 2 }}
{{- end }}

{{/* Reference of an image. Takes `root` and `image`, a key of `images`. */}}
{{- define "advgrpo.image" -}}
{{- $image := get .root.Values.images .image -}}
{{- $registry := .root.Values.images.registry -}}
{{- if and $registry (not (regexMatch "^([^/]*[.:][^/]*|localhost)/" $image.repository)) -}}
{{- $registry }}/
{{- end -}}
{{- $image.repository -}}
{{- if $image.digest -}}@{{ $image.digest }}{{- else -}}:{{ $image.tag }}{{- end -}}
{{- end }}

{{- define "advgrpo.s3Secret" -}}
{{ default .Values.s3.createdSecret .Values.s3.existingSecret }}
{{- end }}

{{- define "advgrpo.mlflowSecret" -}}
{{ default .Values.mlflow.createdSecret .Values.mlflow.existingSecret }}
{{- end }}

{{/* Keys with which S3 can be used, and all keys that pods get: S3_REQUIRED_KEYS and S3_KEYS of
     advgrpo/storage/credentials.py. */}}
{{- define "advgrpo.s3RequiredKeys" -}}
{{- list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" | toYaml -}}
{{- end }}

{{- define "advgrpo.s3AllKeys" -}}
{{- append (include "advgrpo.s3RequiredKeys" . | fromYamlArray) "AWS_SESSION_TOKEN" | toYaml -}}
{{- end }}

{{- define "advgrpo.webhookSecret" -}}
{{ default .Values.promotion.webhook.createdSecret .Values.promotion.webhook.existingSecret }}
{{- end }}

{{- define "advgrpo.mlflowService" -}}
{{ include "advgrpo.fullname" . }}-mlflow
{{- end }}

{{- define "advgrpo.trackingUri" -}}
{{- if .Values.mlflow.server.enabled -}}
http://{{ include "advgrpo.mlflowService" . }}.{{ .Release.Namespace }}.svc.cluster.local:{{ .Values.mlflow.server.port }}
{{- else -}}
{{ .Values.mlflow.trackingUri }}
{{- end -}}
{{- end }}

{{- define "advgrpo.workspace" -}}
s3://{{ .Values.s3.bucket }}{{ with .Values.s3.prefix }}/{{ . }}{{ end }}
{{- end }}

{{/* Location outside of which runs do not write. */}}
{{- define "advgrpo.writePrefix" -}}
{{ default (include "advgrpo.workspace" .) .Values.s3.writePrefix }}
{{- end }}

{{/* Whether the webhook receiver or the reconciler is enabled, and whether they start runs. */}}
{{- define "advgrpo.promotes" -}}
{{- with .Values.promotion }}{{ if or .webhook.enabled .reconciler.enabled }}true{{ end }}{{ end -}}
{{- end }}

{{- define "advgrpo.startsRuns" -}}
{{- if and (include "advgrpo.promotes" .) .Values.promotion.onPromotion.pipeline }}true{{ end -}}
{{- end }}

{{- define "advgrpo.cacheClaim" -}}
{{ default (printf "%s-cache" (include "advgrpo.fullname" .)) .Values.cache.existingClaim }}
{{- end }}

{{/* Kinds of jobs by their name in `cluster.backend`, as in advgrpo/cluster/backends. */}}
{{- define "advgrpo.backends" -}}
trainjob:
  group: trainer.kubeflow.org
  version: v1alpha1
  kind: TrainJob
  plural: trainjobs
  installedBy: Kubeflow Trainer 2.3
pytorchjob:
  group: kubeflow.org
  version: v1
  kind: PyTorchJob
  plural: pytorchjobs
  installedBy: Kubeflow's training operator 1.9
{{- end }}

{{/* The kinds of jobs that `cluster.backend` allows: `auto` allows all. */}}
{{- define "advgrpo.allowedBackends" -}}
{{- $backends := include "advgrpo.backends" . | fromYaml -}}
{{- $chosen := .Values.cluster.backend -}}
{{- if eq $chosen "auto" -}}
{{- $backends | toYaml -}}
{{- else if hasKey $backends $chosen -}}
{{- pick $backends $chosen | toYaml -}}
{{- else -}}
{{- fail (printf "cluster.backend=%s: unknown job backend; use one of: auto, %s" $chosen (keys $backends | sortAlpha | join ", ")) -}}
{{- end -}}
{{- end }}

{{/* Whether the chart creates a TrainingRuntime: for `auto`, if the cluster knows the kind. */}}
{{- define "advgrpo.createsRuntime" -}}
{{- $known := .Capabilities.APIVersions.Has "trainer.kubeflow.org/v1alpha1/TrainingRuntime" -}}
{{- if or (eq .Values.cluster.backend "trainjob") (and (eq .Values.cluster.backend "auto") $known) }}true{{ end -}}
{{- end }}

{{/* `ClusterSettings` as JSON: the values under `cluster`, and those that follow from others. Helm removes
     a value that is set to null, so `runAsUser` and `annotations` are written here: null is not their default. */}}
{{- define "advgrpo.clusterSettings" -}}
{{- $derived := dict
  "image" (include "advgrpo.image" (dict "root" . "image" "trainer"))
  "imagePullPolicy" .Values.images.pullPolicy
  "imagePullSecrets" .Values.images.pullSecrets
  "serviceAccount" (printf "%s-training" (include "advgrpo.fullname" .))
  "trainingRuntime" (include "advgrpo.fullname" .)
  "configMap" .Values.configMap.name
  "s3Secret" (include "advgrpo.s3Secret" .)
  "mlflowSecret" (include "advgrpo.mlflowSecret" .)
  "annotations" (default dict (index .Values.cluster "annotations"))
  "runAsUser" (index .Values.cluster "runAsUser")
  "cacheClaim" (ternary (include "advgrpo.cacheClaim" .) nil .Values.cache.enabled)
  "cacheSize" (ternary .Values.cache.size nil .Values.cache.enabled)
-}}
{{- merge $derived .Values.cluster | toJson -}}
{{- end }}
