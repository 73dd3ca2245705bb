{{/* Common fields of the chart's pods. Takes `root`, `component`, `account` (suffix of the service
     account's name) and `token` (whether to mount its token for the API server). */}}
{{- define "advgrpo.pod" -}}
serviceAccountName: {{ include "advgrpo.fullname" .root }}-{{ .account }}
automountServiceAccountToken: {{ .token }}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  {{- with .root.Values.cluster.runAsUser }}
  {{- /* int64, because large numbers of values are floats, which print as 1.00066e+09. */}}
  runAsUser: {{ int64 . }}
  runAsGroup: {{ int64 . }}
  fsGroup: {{ int64 . }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .root.Values.pods.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.pods.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.pods.priorityClass }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Labels and annotations of a pod. Takes `root`, `component` and further `annotations`. */}}
{{- define "advgrpo.podMetadata" -}}
labels:
  {{- merge (include "advgrpo.labels" . | fromYaml) .root.Values.pods.labels | toYaml | nindent 2 }}
{{- with merge (default dict .annotations) .root.Values.pods.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Common fields of containers. Takes `root`, `image` and `resources`. */}}
{{- define "advgrpo.container" -}}
image: {{ include "advgrpo.image" . | quote }}
imagePullPolicy: {{ .root.Values.images.pullPolicy }}
workingDir: /tmp
terminationMessagePolicy: FallbackToLogsOnError
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
resources:
  {{- toYaml .resources | nindent 2 }}
{{- end }}

{{/* Digest of the settings that a pod reads at its start: as an annotation it replaces the pod when they
     change. Not of Secrets: a digest would confirm a guessed password. */}}
{{- define "advgrpo.settingsDigest" -}}
{{- include (printf "%s/config-map.yaml" .Template.BasePath) . | sha256sum -}}
{{- end }}

{{/* The settings, as tasks and jobs read them. */}}
{{- define "advgrpo.settingsFrom" -}}
- configMapRef:
    name: {{ .Values.configMap.name }}
{{- end }}

{{/* Keys of a Secret as variables of the same names, each optional. The Secret's other keys are not
     exposed to the pod. Takes `secret` and `keys`. */}}
{{- define "advgrpo.keysOf" -}}
{{- range .keys }}
- name: {{ . }}
  valueFrom:
    secretKeyRef:
      name: {{ $.secret }}
      key: {{ . }}
      optional: true
{{- end }}
{{- end }}

{{- define "advgrpo.s3Keys" -}}
{{- include "advgrpo.keysOf" (dict "secret" (include "advgrpo.s3Secret" .) "keys" (include "advgrpo.s3AllKeys" . | fromYamlArray)) | trim -}}
{{- end }}

{{- define "advgrpo.mlflowKeys" -}}
{{- include "advgrpo.keysOf" (dict "secret" (include "advgrpo.mlflowSecret" .) "keys" (list "MLFLOW_TRACKING_PASSWORD" "MLFLOW_TRACKING_TOKEN" "MLFLOW_TRACKING_USERNAME")) | trim -}}
{{- end }}

{{/* The root filesystem is read-only: libraries write to /tmp. */}}
{{- define "advgrpo.home" -}}
- name: HOME
  value: /tmp
- name: ADVGRPO_CACHE
  value: /tmp/cache
{{- end }}

{{/* Log format of pods that do not read the ConfigMap. */}}
{{- define "advgrpo.logEnvironment" -}}
- name: ADVGRPO_LOG_FORMAT
  value: {{ .Values.logs.format }}
{{- end }}

{{/* Annotations by which Prometheus discovers a pod, if it is configured to. */}}
{{- define "advgrpo.metricsAnnotations" -}}
{{- if .Values.metrics.enabled -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .Values.metrics.port | quote }}
{{- end -}}
{{- end }}

{{- define "advgrpo.temporaryMount" -}}
- name: temporary
  mountPath: /tmp
{{- end }}

{{- define "advgrpo.temporaryVolume" -}}
- name: temporary
  emptyDir:
    sizeLimit: 1Gi
{{- end }}

{{/* Address of Pipelines, and a token whose audience is Pipelines and not the API server. */}}
{{- define "advgrpo.kubeflowEnvironment" -}}
- name: KF_PIPELINES_ENDPOINT
  value: {{ .Values.kubeflow.endpoint | quote }}
- name: KF_PIPELINES_UI_ENDPOINT
  value: {{ .Values.kubeflow.ui | quote }}
- name: KF_PIPELINES_SA_TOKEN_PATH
  value: /var/run/secrets/kubeflow/pipelines/token
{{- end }}

{{/* Images and names that the compiled pipeline refers to. */}}
{{- define "advgrpo.pipelineEnvironment" -}}
{{- if .Values.metrics.enabled }}
- name: ADVGRPO_METRICS_PORT
  value: {{ .Values.metrics.port | quote }}
{{- end }}
- name: ADVGRPO_WORKSPACE
  value: {{ include "advgrpo.workspace" . | quote }}
- name: ADVGRPO_LAUNCHER_IMAGE
  value: {{ include "advgrpo.image" (dict "root" . "image" "launcher") | quote }}
- name: ADVGRPO_TRAINER_IMAGE
  value: {{ include "advgrpo.image" (dict "root" . "image" "trainer") | quote }}
{{- with .Values.cluster.runAsUser }}
- name: ADVGRPO_RUN_AS_USER
  value: {{ int64 . | quote }}
{{- end }}
{{- with .Values.images.pullSecrets }}
- name: ADVGRPO_PULL_SECRETS
  value: {{ join " " . | quote }}
{{- end }}
- name: ADVGRPO_CONFIG_MAP
  value: {{ .Values.configMap.name }}
- name: ADVGRPO_S3_SECRET
  value: {{ include "advgrpo.s3Secret" . }}
- name: ADVGRPO_MLFLOW_SECRET
  value: {{ include "advgrpo.mlflowSecret" . }}
{{- end }}

{{- define "advgrpo.kubeflowMount" -}}
- name: kubeflow-token
  mountPath: /var/run/secrets/kubeflow/pipelines
  readOnly: true
{{- end }}

{{- define "advgrpo.kubeflowVolume" -}}
- name: kubeflow-token
  projected:
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
          audience: {{ .Values.kubeflow.tokenAudience }}
{{- end }}

{{/* Environment of the webhook receiver and the reconciler. */}}
{{- define "advgrpo.promotionEnvironment" -}}
{{ include "advgrpo.home" . }}
{{ include "advgrpo.mlflowKeys" . }}
{{- if .Values.promotion.s3Access }}
{{ include "advgrpo.s3Keys" . }}
{{- end }}
{{- if include "advgrpo.startsRuns" . }}
{{ include "advgrpo.kubeflowEnvironment" . }}
- name: ADVGRPO_ON_PROMOTION_PIPELINE
  value: {{ .Values.promotion.onPromotion.pipeline | quote }}
- name: ADVGRPO_ON_PROMOTION_PARAMETERS
  value: {{ .Values.promotion.onPromotion.parameters | toJson | quote }}
{{- end }}
{{- end }}

{{- define "advgrpo.promotionMounts" -}}
{{ include "advgrpo.temporaryMount" . }}
{{- if include "advgrpo.startsRuns" . }}
{{ include "advgrpo.kubeflowMount" . }}
{{- end }}
{{- end }}

{{- define "advgrpo.promotionVolumes" -}}
{{ include "advgrpo.temporaryVolume" . }}
{{- if include "advgrpo.startsRuns" . }}
{{ include "advgrpo.kubeflowVolume" . }}
{{- end }}
{{- end }}
