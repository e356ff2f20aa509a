{{ define "title" }}{{ range .Alerts }}{{ end }}
