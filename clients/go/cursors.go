package miniasynq

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// FileCursors keeps the cursor in a file, which is replaced as a whole: a crash leaves the old or the new one. The folder
// must be there, and one program uses the file at a time.
func FileCursors(path string) Cursors { return fileCursors(path) }

type fileCursors string

func (f fileCursors) Load(context.Context) (string, error) {
	raw, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(raw)), err
}

func (f fileCursors) Save(_ context.Context, cursor string) (err error) {
	file, err := os.CreateTemp(filepath.Dir(string(f)), filepath.Base(string(f))+".*")
	if err != nil {
		return fmt.Errorf("write a cursor: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	_, err = file.WriteString(cursor + "\n")
	// Without the sync a crash of the machine could leave an empty file under the new name.
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("write a cursor: %w", err)
	}
	return os.Rename(file.Name(), string(f))
}
