package cli

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// newHealthcheck asks the server of this machine or container whether it is ready: images have no curl.
func newHealthcheck(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "healthcheck", Short: "Exit with 0 if the server on this machine is ready", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			env, err := ReadEnvironment(g.around.Environ, g.envFile)
			if err != nil {
				return err
			}
			host := env.Bind
			if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
				host = "127.0.0.1"
			}
			url := "http://" + net.JoinHostPort(host, strconv.Itoa(env.ServerPort)) +
				strings.TrimSuffix(env.BasePath, "/") + "/api/v1/health/ready"
			request, err := http.NewRequestWithContext(cmd.Context(), http.MethodGet, url, nil)
			if err != nil {
				return err
			}
			client := &http.Client{Timeout: 3 * time.Second}
			answer, err := client.Do(request)
			if err != nil {
				return err
			}
			defer answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				return fmt.Errorf("the server is not ready: %s", answer.Status)
			}
			return nil
		},
	}
}
