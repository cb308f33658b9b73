package cli

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mini-asynq/mini-asynq/internal/app"
	"github.com/mini-asynq/mini-asynq/internal/doctor"
)

// newDoctor is the command that says what is wrong.
func newDoctor(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use: "doctor", Short: "Examine settings and database, and say what is wrong and what to do", Args: noArgs,
		Long: "Examines settings, database and, if one answers, the server. It changes nothing.\n" +
			"Exit code: 0 nothing is red, 1 a check is red, 6 the database cannot be reached.",
	}
	output := cmd.Flags().StringP("output", "o", "table", "table, or json for programs")
	fixSQL := cmd.Flags().Bool("fix-sql", false, "print the SQL that would repair what SQL can repair, and run none of it")
	server := cmd.Flags().String("server", "", "address of a running server (MINIASYNQ_SERVER)")
	given := addSettingFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *output != "table" && *output != "json" {
			return fmt.Errorf("%w: --output %q: write table or json", errUsage, *output)
		}
		report := doctor.Examine(cmd.Context(), g.doctorConfig(*server, given()))
		write := report.WriteText
		switch {
		case *fixSQL && *output == "table":
			write = report.WriteSQL
		case *output == "json":
			write = report.WriteJSON
		}
		if err := write(cmd.OutOrStdout()); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
		switch {
		case !report.Reached:
			return errUnreached
		case report.Red():
			return fmt.Errorf("%w: a check is red", errRed)
		}
		return nil
	}
	return cmd
}

// doctorConfig is what would be served. What cannot be read is a finding, not the end.
func (g *globals) doctorConfig(server string, flags map[string]string) doctor.Config {
	read, err := readSettings(g.around.Environ, g.envFile, flags)
	if err != nil {
		return doctor.Config{SettingsError: err}
	}
	env, err := read.environment()
	if err != nil {
		return doctor.Config{SettingsError: err}
	}
	config, err := AppConfig(env)
	if err != nil {
		return doctor.Config{SettingsError: err}
	}
	stateDir, err := app.StateDir(config)
	if err != nil {
		return doctor.Config{SettingsError: err}
	}
	named := server != ""
	if server == "" {
		server = read.values["MINIASYNQ_SERVER"]
		named = server != ""
	}
	if server == "" {
		host := env.Bind
		if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
			host = "127.0.0.1"
		}
		server = "http://" + net.JoinHostPort(host, strconv.Itoa(env.ServerPort)) + config.BasePath
	}
	return doctor.Config{
		Open: func(ctx context.Context) (doctor.Database, error) {
			found, err := app.Locate(ctx, config)
			return doctor.Database{URL: found.URL, Private: found.Private, Dir: found.Dir, Close: found.Close}, err
		},
		ListenURL: config.ListenURL, Bind: config.Bind, Address: config.Address, PublicURL: config.PublicURL,
		AdminPassword: config.AdminPassword, DocumentedPassword: app.DocumentedPassword, Dev: config.Dev, Anonymous: config.Anonymous,
		Loopback: config.Loopback(), StateDir: stateDir,
		DocumentedDatabaseUser: "postgres", DocumentedDatabasePassword: "postgres",
		KeepDone: config.KeepDone, KeepDead: config.KeepDead, KeepEvents: config.KeepEvents,
		Queues: config.Queues, Connections: app.ConnectionBudget(),
		Server: strings.TrimSuffix(server, "/"), ServerNamed: named, APIKey: read.values["MINIASYNQ_API_KEY"], BasePath: config.BasePath,
		Version: version,
	}
}
