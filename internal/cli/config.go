package cli

import (
	"fmt"
	"net/url"
	"reflect"
	"regexp"
	"slices"

	"github.com/spf13/cobra"
)

// setting is a variable as the command config shows it.
type setting struct {
	Name   string `json:"name"`
	Value  string `json:"value"` // masked where it is a secret
	Origin string `json:"origin"`
}

// newConfig shows what serve and the client commands would use, and where each value comes from.
func newConfig(g *globals) *cobra.Command {
	f := &clientFlags{}
	cmd := &cobra.Command{
		Use: "config", Short: "Show all settings with their origins, secrets masked; takes the flags of serve", Args: noArgs,
	}
	addFormFlags(cmd, f)
	given := addSettingFlags(cmd.Flags())
	cmd.RunE = func(*cobra.Command, []string) error {
		s, err := f.show(g)
		if err != nil {
			return err
		}
		read, err := readSettings(g.around.Environ, g.envFile, given())
		if err != nil {
			return err
		}
		all := read.list()
		if s.form == formLines {
			for _, one := range all {
				if err := writeJSON(s.out, one, true); err != nil {
					return err
				}
			}
		} else if err := s.showOne(all, func() table {
			t := table{head: []string{"NAME", "VALUE", "ORIGIN"}}
			for _, one := range all {
				t.rows = append(t.rows, plain(one.Name, one.Value, one.Origin))
			}
			return t
		}); err != nil {
			return err
		}
		env, err := read.environment()
		if err == nil {
			_, err = AppConfig(env) // a setting that serve would refuse is shown, and said
		}
		return err
	}
	return cmd
}

// list is every setting in the order of Environment, then those of the client commands.
func (s settings) list() []setting {
	t := reflect.TypeFor[Environment]()
	out := make([]setting, 0, t.NumField()+3)
	add := func(name, standard string) {
		value, given := s.values[name]
		one := setting{name, value, s.origins[name]}
		if !given {
			one.Value, one.Origin = standard, "default"
		}
		if one.Value != "" && slices.Contains(secrets, name) {
			one.Value = masked(one.Value)
		}
		out = append(out, one)
	}
	for i := range t.NumField() {
		add(t.Field(i).Tag.Get("env"), t.Field(i).Tag.Get("envDefault"))
	}
	add("MINIASYNQ_SERVER", defaultServer)
	add("MINIASYNQ_API_KEY", "")
	add("MINIASYNQ_PASSWORD", "")
	return out
}

const mask = "******"

// keyID is what of an API key may be shown: it is in every list of keys.
var keyID = regexp.MustCompile(`^mak_[^_]+_`)

// masked leaves of a secret what helps to recognise it and opens nothing: of an address all but the password and the
// query, which may hold one; of an API key its id.
func masked(secret string) string {
	if u, err := url.Parse(secret); err == nil && u.Scheme != "" && u.Host != "" {
		user := ""
		if u.User != nil {
			user = u.User.Username() + ":" + mask + "@"
		}
		return fmt.Sprintf("%s://%s%s%s", u.Scheme, user, u.Host, u.Path)
	}
	return keyID.FindString(secret) + mask
}
