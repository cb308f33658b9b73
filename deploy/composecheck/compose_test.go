package composecheck_test

import (
	"context"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stretchr/testify/require"
)

const root = "../../"

// load reads docker-compose.yml as Compose does: schema, interpolation, references between services. env is the only
// environment, so a variable of this machine changes nothing.
func load(t *testing.T, env ...string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{root + "docker-compose.yml"}, cli.WithEnv(env))
	require.NoError(t, err)
	project, err := options.LoadProject(t.Context())
	require.NoError(t, err)
	return project
}

func TestComposeFileIsValidAndStartsTheTwoServices(t *testing.T) {
	t.Parallel()
	project := load(t)
	require.ElementsMatch(t, []string{"postgres", "server"}, project.ServiceNames())
	require.Equal(t, types.ServiceConditionHealthy, project.Services["server"].DependsOn["postgres"].Condition)
	require.Empty(t, project.Services["postgres"].DependsOn, "`up -d postgres` starts the database alone")
}

// A key with a typing error must be red, or the test above says nothing.
func TestUnknownKeysAreRefused(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(root + "docker-compose.yml")
	require.NoError(t, err)
	broken := strings.Replace(string(text), "healthcheck:", "healthchek:", 1)
	require.NotEqual(t, string(text), broken)
	path := t.TempDir() + "/docker-compose.yml"
	require.NoError(t, os.WriteFile(path, []byte(broken), 0o600))

	options, err := cli.NewProjectOptions([]string{path})
	require.NoError(t, err)
	_, err = options.LoadProject(context.Background())
	require.ErrorContains(t, err, "healthchek")
}

func TestPortsArePublishedOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	for _, service := range load(t).Services {
		require.NotEmpty(t, service.Ports, service.Name)
		for _, port := range service.Ports {
			address, err := netip.ParseAddr(port.HostIP)
			require.NoError(t, err, "%s publishes %s on every address", service.Name, port.Published)
			require.True(t, address.IsLoopback(), "%s publishes on %s", service.Name, address)
		}
	}
}

func TestPublishedPortsAreTheDefaultsAndCanBeMoved(t *testing.T) {
	t.Parallel()
	project := load(t)
	require.Equal(t, "8080", project.Services["server"].Ports[0].Published)
	require.Equal(t, "5432", project.Services["postgres"].Ports[0].Published)

	moved := load(t, "SERVER_PORT=9090", "DB_PORT=6543")
	require.Equal(t, "9090", moved.Services["server"].Ports[0].Published)
	require.Equal(t, "6543", moved.Services["postgres"].Ports[0].Published)
	require.Equal(t, "5432", *moved.Services["server"].Environment["DB_PORT"], "inside, ports stay as they are")
	require.EqualValues(t, 8080, moved.Services["server"].Ports[0].Target)
	require.Equal(t, "8080", *moved.Services["server"].Environment["SERVER_PORT"])
}

func TestContainersAreLockedDown(t *testing.T) {
	t.Parallel()
	for _, service := range load(t).Services {
		require.Equal(t, []string{"ALL"}, service.CapDrop, service.Name)
		require.Empty(t, service.CapAdd, service.Name)
		require.False(t, service.Privileged, service.Name)
		require.True(t, service.ReadOnly, service.Name)
		require.Contains(t, service.SecurityOpt, "no-new-privileges:true", service.Name)
		require.Empty(t, service.NetworkMode, service.Name)
	}
}

func TestContainersHealAndStopInPeace(t *testing.T) {
	t.Parallel()
	project := load(t)
	for _, service := range project.Services {
		require.Equal(t, "unless-stopped", service.Restart, service.Name)
		require.NotNil(t, service.HealthCheck, service.Name)
		require.False(t, service.HealthCheck.Disable, service.Name)
		require.Equal(t, "CMD", service.HealthCheck.Test[0], "%s: there is no shell to run a check in", service.Name)
		require.NotNil(t, service.StopGracePeriod, service.Name)
		// The default grace of running jobs and two seconds to leave.
		require.Greater(t, time.Duration(*service.StopGracePeriod), 32*time.Second, service.Name)
	}
	require.Equal(t, types.HealthCheckTest{"CMD", "/mini-asynq", "healthcheck"}, project.Services["server"].HealthCheck.Test)
}

func TestJobsOutliveTheContainers(t *testing.T) {
	t.Parallel()
	project := load(t)
	volumes := project.Services["postgres"].Volumes
	require.Len(t, volumes, 1)
	require.Equal(t, types.VolumeTypeVolume, volumes[0].Type)
	require.Contains(t, project.Volumes, volumes[0].Source)
	require.Equal(t, "/var/lib/postgresql/data", volumes[0].Target)
}

// The database that `docker-compose up -d postgres` starts is the one that a server without settings looks for.
func TestDatabaseIsTheOneOfTheDefaults(t *testing.T) {
	t.Parallel()
	project := load(t)
	database := project.Services["postgres"].Environment
	server := project.Services["server"].Environment
	for name, want := range map[string]string{
		"POSTGRES_USER": "postgres", "POSTGRES_PASSWORD": "postgres", "POSTGRES_DB": "gosynq_db",
	} {
		require.Equal(t, want, *database[name], name)
	}
	for name, want := range map[string]string{
		"DB_HOST": "postgres", "DB_USER": "postgres", "DB_PASSWORD": "postgres", "DB_NAME": "gosynq_db",
	} {
		require.Equal(t, want, *server[name], name)
	}
}

func TestServerIsOpenAsTheDevelopmentSetUpPromises(t *testing.T) {
	t.Parallel()
	environment := load(t).Services["server"].Environment
	for name, want := range map[string]string{
		"MINIASYNQ_BIND":          "0.0.0.0",
		"MINIASYNQ_DEV":           "true",
		"MINIASYNQ_ANONYMOUS":     "enqueue,work,read,read:payload",
		"MINIASYNQ_ALLOWED_HOSTS": "server",
	} {
		require.Contains(t, environment, name)
		require.Equal(t, want, *environment[name], name)
	}
}

// An unknown MINIASYNQ_ name stops the server, so one here would be a container that restarts for ever.
func TestServerKnowsEveryVariable(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile(root + "internal/cli/env.go")
	require.NoError(t, err)
	known := regexp.MustCompile(`env:"([A-Z0-9_]+)"`).FindAllStringSubmatch(string(source), -1)
	require.NotEmpty(t, known)
	for name := range load(t).Services["server"].Environment {
		require.True(t, slices.ContainsFunc(known, func(m []string) bool { return m[1] == name }),
			"internal/cli/env.go does not know %s", name)
	}
}

// The last line of defence when the container is started without Compose.
func TestImageIsNotRunAsRoot(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(root + "Dockerfile")
	require.NoError(t, err)
	_, last, found := strings.Cut(string(text), "\nFROM scratch\n")
	require.True(t, found, "the last stage has nothing but the binary")
	require.Regexp(t, `(?m)^USER [1-9][0-9]*:[1-9][0-9]*$`, last)
	require.Regexp(t, `(?m)^HEALTHCHECK .*CMD \["/mini-asynq", "healthcheck"\]$`, last)
	require.Contains(t, last, `ENTRYPOINT ["/mini-asynq"]`)
	require.NotContains(t, last, "\nRUN ", "scratch has no shell")
}
