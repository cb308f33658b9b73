package cli

import (
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// shortNames are the flags whose names do not follow from their variables.
var shortNames = map[string]string{"SERVER_PORT": "port", "WORKER_POOL_SIZE": "workers"}

// flagOf is the flag of a variable: MINIASYNQ_RETAIN_DEAD is --retain-dead.
func flagOf(variable string) string {
	if name, ok := shortNames[variable]; ok {
		return name
	}
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(variable, prefix)), "_", "-")
}

// addSettingFlags adds a flag for every variable of the server. Other users of the machine can read a command line, so a
// secret has none; its flag names the file that holds it. What was given is told as variables, after the flags were parsed.
func addSettingFlags(flags *pflag.FlagSet) (given func() map[string]string) {
	values := make(map[string]*string)
	t := reflect.TypeFor[Environment]()
	for i := range t.NumField() {
		field := t.Field(i)
		variable, help := field.Tag.Get("env"), field.Tag.Get("help")
		if slices.Contains(secrets, variable) {
			variable += "_FILE"
			help = "file that holds " + field.Tag.Get("env")
		}
		help += " (" + variable
		if standard := field.Tag.Get("envDefault"); standard != "" {
			help += ", default " + standard
		}
		flag := flagOf(variable)
		values[variable] = flags.String(flag, "", help+")")
		if field.Type.Kind() == reflect.Bool {
			flags.Lookup(flag).NoOptDefVal = "true"
		}
	}
	return func() map[string]string {
		set := make(map[string]string)
		for variable, value := range values {
			if flags.Changed(flagOf(variable)) {
				set[variable] = *value
			}
		}
		return set
	}
}
