# The image holds one static binary, root certificates and nothing to log in with. It needs a PostgreSQL 15 or newer:
#
#   docker build -t mini-asynq .
#   docker run -p 127.0.0.1:8080:8080 -e DATABASE_URL=postgres://... -e MINIASYNQ_ADMIN_PASSWORD=... mini-asynq
#
# It runs with --read-only and --cap-drop ALL: the server writes no file when its database is elsewhere. Give it a stop
# timeout above 32 s (docker run --stop-timeout 40), or running jobs are cut off before their grace of 30 s is over.

FROM golang:1.26-bookworm AS build
WORKDIR /src

# Modules change less often than code, so they have a layer of their own.
COPY go.mod go.sum ./
RUN go mod download && go mod verify

COPY . .
ARG VERSION=dev
ARG COMMIT=unknown
# timetzdata: schedules name time zones, and the image below has no database of them.
RUN CGO_ENABLED=0 go build -trimpath -tags=timetzdata \
      -ldflags "-s -w \
        -X github.com/mini-asynq/mini-asynq/internal/cli.version=${VERSION} \
        -X github.com/mini-asynq/mini-asynq/internal/cli.commit=${COMMIT}" \
      -o /out/mini-asynq ./cmd/server

FROM scratch
# For webhooks, http jobs and databases that are spoken to over TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/mini-asynq /mini-asynq

# A number and not a name: orchestrators can then see that it is not root.
USER 65532:65532

# Inside the container loopback is reachable by nobody. Bound to all addresses the server insists on an admin password
# of your own and on credentials for everything but the dashboard's files and the health check.
ENV MINIASYNQ_BIND=0.0.0.0

EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/mini-asynq", "healthcheck"]
ENTRYPOINT ["/mini-asynq"]
