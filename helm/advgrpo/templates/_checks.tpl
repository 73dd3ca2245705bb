{{/* Checks of values that a schema cannot express. */}}

{{/* Images need a digest or a tag that does not move. */}}
{{- define "advgrpo.checkImages" -}}
{{- range $key := list "launcher" "trainer" "mlflow" -}}
{{- $image := get $.Values.images $key -}}
{{- if not $image.digest -}}
{{- if not $image.tag -}}
{{- fail (printf "images.%s has neither tag nor digest: set images.%s.tag to a version" $key $key) -}}
{{- end -}}
{{- if has $image.tag (list "latest" "main" "master" "nightly") -}}
{{- fail (printf "images.%s.tag=%s: a moving tag; set a version or a digest" $key $image.tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* URLs must not contain a password. Takes `name` and `url`. */}}
{{- define "advgrpo.checkUrl" -}}
{{- if (urlParse .url).userinfo -}}
{{- fail (printf "%s contains credentials, which would be stored in a ConfigMap: put them into a Secret" .name) -}}
{{- end -}}
{{- end }}

{{- define "advgrpo.checkS3" -}}
{{- with .Values.s3 -}}
{{- if not .bucket -}}
{{- fail "s3.bucket is missing: set it to the bucket of the workspace" -}}
{{- end -}}
{{- include "advgrpo.checkUrl" (dict "name" "s3.endpoint" "url" .endpoint) -}}
{{- $workspace := include "advgrpo.workspace" $ -}}
{{- $below := include "advgrpo.writePrefix" $ | trimSuffix "/" -}}
{{- if not (hasPrefix (printf "%s/" $below) (printf "%s/" $workspace)) -}}
{{- fail (printf "s3.writePrefix=%s: does not contain the workspace %s (s3.bucket and s3.prefix), so no run could write to it" .writePrefix $workspace) -}}
{{- end -}}
{{- $created := or .accessKeyId .secretAccessKey -}}
{{- if and .existingSecret $created -}}
{{- fail "s3.existingSecret and s3.accessKeyId or s3.secretAccessKey are both set: set one of them" -}}
{{- end -}}
{{- if and $created (not (and .accessKeyId .secretAccessKey)) -}}
{{- fail "s3.accessKeyId and s3.secretAccessKey belong together: set both" -}}
{{- end -}}
{{- if and .workloadIdentity (or .existingSecret $created) -}}
{{- fail "s3.workloadIdentity and keys for S3 are both set: set one of them" -}}
{{- end -}}
{{- if not (or .workloadIdentity .existingSecret $created) -}}
{{- fail "no credentials for S3: set s3.existingSecret, or s3.accessKeyId and s3.secretAccessKey, or s3.workloadIdentity" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "advgrpo.checkMlflow" -}}
{{- with .Values.mlflow -}}
{{- if and .server.enabled .trackingUri -}}
{{- fail "mlflow.trackingUri and mlflow.server.enabled are both set: leave mlflow.trackingUri empty to use the server of this chart" -}}
{{- end -}}
{{- if not (or .server.enabled .trackingUri) -}}
{{- fail "mlflow.trackingUri is missing: set it to the URL of the MLflow server, or set mlflow.server.enabled" -}}
{{- end -}}
{{- include "advgrpo.checkUrl" (dict "name" "mlflow.trackingUri" "url" .trackingUri) -}}
{{- $created := or .username .password .token -}}
{{- if and .existingSecret $created -}}
{{- fail "mlflow.existingSecret and mlflow.username, password or token are both set: set one of them" -}}
{{- end -}}
{{- if and .token (or .username .password) -}}
{{- fail "mlflow.token and mlflow.username or mlflow.password are both set: set one of them" -}}
{{- end -}}
{{- if and (or .username .password) (not (and .username .password)) -}}
{{- fail "mlflow.username and mlflow.password belong together: set both" -}}
{{- end -}}
{{- if and .server.database.existingSecret .server.database.existingClaim -}}
{{- fail "mlflow.server.database.existingSecret and existingClaim are both set: set one of them" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "advgrpo.checkPromotion" -}}
{{- with .Values.promotion.webhook -}}
{{- if .enabled -}}
{{- if and .existingSecret .secret -}}
{{- fail "promotion.webhook.existingSecret and promotion.webhook.secret are both set: set one of them" -}}
{{- end -}}
{{- if not (or .existingSecret .secret) -}}
{{- fail "promotion.webhook has no signing key: set promotion.webhook.existingSecret or promotion.webhook.secret" -}}
{{- end -}}
{{- $server := $.Values.mlflow.server -}}
{{- if and $server.enabled (not $server.webhooks.existingSecret) -}}
{{- fail "promotion.webhook.enabled, but mlflow.server.webhooks.existingSecret is empty: the MLflow server needs it for webhooks" -}}
{{- end -}}
{{- if not (or $server.enabled .from.namespaces .from.cidrs (not $.Values.networkPolicies.enabled)) -}}
{{- fail "promotion.webhook.from is empty, so nothing may call the webhook: set the MLflow server's namespace or address range" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "advgrpo.checkMetrics" -}}
{{- with .Values.metrics -}}
{{- include "advgrpo.checkUrl" (dict "name" "metrics.pushGateway" "url" .pushGateway) -}}
{{- if and .enabled $.Values.networkPolicies.enabled (not (or .from.namespaces .from.cidrs)) -}}
{{- fail "metrics.from is empty, so nothing may read metrics: set Prometheus' namespace or address range" -}}
{{- end -}}
{{- if and .podMonitor.enabled (not .enabled) -}}
{{- fail "metrics.podMonitor.enabled, but no pod serves metrics: set metrics.enabled=true" -}}
{{- end -}}
{{- $webhook := $.Values.promotion.webhook -}}
{{- if and .enabled $webhook.enabled (eq (int .port) (int $webhook.port)) -}}
{{- fail (printf "metrics.port and promotion.webhook.port are both %v: change one of them" .port) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "advgrpo.checkCluster" -}}
{{- with .Values.cluster -}}
{{- if not (or .gpusPerNode .processesPerNode) -}}
{{- fail "cluster.gpusPerNode=0 runs on CPU and needs the number of processes per node: set cluster.processesPerNode" -}}
{{- end -}}
{{- if and .rdma (not .gpusPerNode) -}}
{{- fail "cluster.rdma is set, but cluster.gpusPerNode=0: RDMA needs GPUs" -}}
{{- end -}}
{{- if and .gpusPerNode .processesPerNode -}}
{{- if gt (int .processesPerNode) (int .gpusPerNode) -}}
{{- fail (printf "cluster.processesPerNode=%v is more than cluster.gpusPerNode=%v: a process needs a GPU" .processesPerNode .gpusPerNode) -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := .environment -}}
{{- if regexMatch "(?i)secret|token|passw|credential|access_key|api_key" $name -}}
{{- fail (printf "cluster.environment.%s looks like a secret and would be stored in a ConfigMap: remove it" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A rule with neither peers nor ports would allow everything. */}}
{{- define "advgrpo.checkNetwork" -}}
{{- range $name := list "dns" "apiServer" "kubeflow" "database" -}}
{{- $to := get $.Values.networkPolicies $name -}}
{{- if not (or $to.namespaces $to.cidrs $to.ports) -}}
{{- fail (printf "networkPolicies.%s has neither namespaces, cidrs nor ports, which would allow everything" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name := list "jobs" "tasks" -}}
{{- range get $.Values.networkPolicies $name -}}
{{- if not (or .namespaces .cidrs .ports) -}}
{{- fail (printf "networkPolicies.%s has an entry with neither namespaces, address ranges nor ports, which would allow everything" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Kinds that must be installed in the cluster. */}}
{{- define "advgrpo.checkCustomResources" -}}
{{- $backends := include "advgrpo.allowedBackends" . | fromYaml -}}
{{- if .Values.checks.customResources -}}
{{- $known := .Capabilities.APIVersions -}}
{{- $unless := "or, if it is installed and only this command cannot see it, set checks.customResources=false" -}}
{{- $found := list -}}
{{- $lacking := list -}}
{{- $installs := list -}}
{{- range $name, $backend := $backends -}}
{{- if $known.Has (printf "%s/%s/%s" .group .version .kind) -}}
{{- $found = append $found $name -}}
{{- else -}}
{{- $lacking = append $lacking (printf "%s (%s/%s)" .kind .group .version) -}}
{{- $installs = append $installs .installedBy -}}
{{- end -}}
{{- end -}}
{{- if not $found -}}
{{- fail (printf "the cluster does not know the kind %s: install %s, %s" (join " or " $lacking) (join " or " $installs) $unless) -}}
{{- end -}}
{{- if and (has "trainjob" $found) (eq (len $found) 1) (not ($known.Has "jobset.x-k8s.io/v1alpha2/JobSet")) -}}
{{- fail (printf "the cluster does not know the kind JobSet (jobset.x-k8s.io/v1alpha2), which Kubeflow Trainer needs: install JobSet 0.12 or later, %s" $unless) -}}
{{- end -}}
{{- if not ($known.Has "argoproj.io/v1alpha1/Workflow") -}}
{{- fail (printf "the cluster does not know the kind Workflow (argoproj.io/v1alpha1): install Kubeflow Pipelines 2.17, %s" $unless) -}}
{{- end -}}
{{- if and .Values.cluster.queue (not (or ($known.Has "kueue.x-k8s.io/v1beta1/LocalQueue") ($known.Has "kueue.x-k8s.io/v1beta2/LocalQueue"))) -}}
{{- fail (printf "cluster.queue=%s, but the cluster does not know the kind LocalQueue (kueue.x-k8s.io): install Kueue, leave cluster.queue empty, %s" .Values.cluster.queue $unless) -}}
{{- end -}}
{{- if and .Values.metrics.podMonitor.enabled (not ($known.Has "monitoring.coreos.com/v1/PodMonitor")) -}}
{{- fail (printf "metrics.podMonitor.enabled, but the cluster does not know the kind PodMonitor (monitoring.coreos.com/v1): install the Prometheus operator, set metrics.podMonitor.enabled=false and let Prometheus discover the pods by their annotations, %s" $unless) -}}
{{- end -}}
{{- if and .Values.metrics.prometheusRule.enabled (not ($known.Has "monitoring.coreos.com/v1/PrometheusRule")) -}}
{{- fail (printf "metrics.prometheusRule.enabled, but the cluster does not know the kind PrometheusRule (monitoring.coreos.com/v1): install the Prometheus operator, set metrics.prometheusRule.enabled=false and load alerts.yaml with the rule_files of Prometheus, %s" $unless) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Secrets and claims that must exist. Without a cluster `lookup` finds nothing at all; every namespace
     has the service account `default`, which tells the two cases apart. */}}
{{- define "advgrpo.checkExistingObjects" -}}
{{- if and .Values.checks.existingObjects (lookup "v1" "ServiceAccount" .Release.Namespace "default") -}}
{{- include "advgrpo.checkSecret" (dict "root" . "value" "s3.existingSecret" "name" .Values.s3.existingSecret "keys" (include "advgrpo.s3RequiredKeys" . | fromYamlArray)) -}}
{{- $login := list "MLFLOW_TRACKING_PASSWORD" "MLFLOW_TRACKING_USERNAME" -}}
{{- if hasKey (default dict (lookup "v1" "Secret" .Release.Namespace .Values.mlflow.existingSecret).data) "MLFLOW_TRACKING_TOKEN" -}}
{{- $login = list -}}
{{- end -}}
{{- include "advgrpo.checkSecret" (dict "root" . "value" "mlflow.existingSecret" "name" .Values.mlflow.existingSecret "keys" $login) -}}
{{- if .Values.promotion.webhook.enabled -}}
{{- include "advgrpo.checkSecret" (dict "root" . "value" "promotion.webhook.existingSecret" "name" .Values.promotion.webhook.existingSecret "keys" (list "ADVGRPO_WEBHOOK_SECRET")) -}}
{{- end -}}
{{- if .Values.mlflow.server.enabled -}}
{{- include "advgrpo.checkSecret" (dict "root" . "value" "mlflow.server.database.existingSecret" "name" .Values.mlflow.server.database.existingSecret "keys" (list "MLFLOW_BACKEND_STORE_URI")) -}}
{{- include "advgrpo.checkSecret" (dict "root" . "value" "mlflow.server.webhooks.existingSecret" "name" .Values.mlflow.server.webhooks.existingSecret "keys" (list "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY")) -}}
{{- include "advgrpo.checkClaim" (dict "root" . "value" "mlflow.server.database.existingClaim" "name" .Values.mlflow.server.database.existingClaim) -}}
{{- end -}}
{{- range .Values.images.pullSecrets -}}
{{- include "advgrpo.checkSecret" (dict "root" $ "value" "images.pullSecrets" "name" . "keys" list) -}}
{{- end -}}
{{- if .Values.cache.enabled -}}
{{- include "advgrpo.checkClaim" (dict "root" . "value" "cache.existingClaim" "name" .Values.cache.existingClaim) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A Secret. Takes `root`, `value` (the value that names it), `name` and `keys`. */}}
{{- define "advgrpo.checkSecret" -}}
{{- if .name -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .name -}}
{{- if not $found -}}
{{- fail (printf "%s=%s: the Secret does not exist in the namespace %s" .value .name .root.Release.Namespace) -}}
{{- end -}}
{{- range .keys -}}
{{- if not (hasKey (default dict $found.data) .) -}}
{{- fail (printf "%s=%s: the Secret lacks the key %s (it has %s)" $.value $.name . (default "none" (keys (default dict $found.data) | sortAlpha | join ", "))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A claim. Takes `root`, `value` (the value that names it) and `name`. */}}
{{- define "advgrpo.checkClaim" -}}
{{- if and .name (not (lookup "v1" "PersistentVolumeClaim" .root.Release.Namespace .name)) -}}
{{- fail (printf "%s=%s: the PersistentVolumeClaim does not exist in the namespace %s" .value .name .root.Release.Namespace) -}}
{{- end -}}
{{- end }}
