{{- define "binet.name" -}}
{{- if contains "binet" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-binet" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "binet.selector" -}}
app.kubernetes.io/name: binet
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "binet.labels" -}}
{{ include "binet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "binet.pod" -}}
serviceAccountName: {{ include "binet.name" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: data
    persistentVolumeClaim: {claimName: {{ include "binet.name" . }}}
  - name: tmp
    emptyDir: {sizeLimit: 2Gi}
  - name: memory
    emptyDir: {medium: Memory, sizeLimit: 1Gi}
  {{- with .Values.archive.claim }}
  - name: archive
    persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
  {{- end }}
  {{- with .Values.weights.claim }}
  - name: weights
    persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
  {{- end }}
  {{- with .Values.gallery.passwordSecret.name }}
  - name: password
    secret:
      secretName: {{ . }}
      defaultMode: 0440
  {{- end }}
{{- end }}

{{- define "binet.container" -}}
image: {{ printf "%s:%s" .Values.image.repository .Values.image.tag | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: {drop: [ALL]}
env:
  - {name: BINET_GALLERY, value: {{ .Values.gallery.url | quote }}}
  {{- with .Values.gallery.index }}
  - {name: BINET_INDEX, value: {{ . | quote }}}
  {{- end }}
  {{- if .Values.gallery.passwordSecret.name }}
  - name: BINET_DATABASE_PASSWORD_FILE
    value: {{ printf "/run/secrets/binet/%s" .Values.gallery.passwordSecret.key | quote }}
  {{- end }}
volumeMounts:
  - {name: data, mountPath: /data}
  - {name: tmp, mountPath: /tmp}
  - {name: memory, mountPath: /dev/shm}
  {{- if .Values.archive.claim }}
  - {name: archive, mountPath: /archive, readOnly: true}
  {{- end }}
  {{- if .Values.weights.claim }}
  - {name: weights, mountPath: /weights, readOnly: true}
  {{- end }}
  {{- if .Values.gallery.passwordSecret.name }}
  - {name: password, mountPath: /run/secrets/binet, readOnly: true}
  {{- end }}
{{- end }}

{{- define "binet.resources" -}}
{{- $gpu := ternary (dict .gpu.resource .gpu.count) dict .gpu.enabled -}}
requests: {{ toYaml .resources.requests | nindent 2 }}
limits: {{ toYaml (merge (dict) $gpu (default dict .resources.limits)) | nindent 2 }}
{{- end }}
