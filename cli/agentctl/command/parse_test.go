package command

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEveryCallIsThere(t *testing.T) {
	p := NewParser()
	// Upstream's 2.0.0 tool, and what its API has got since.
	for _, name := range strings.Fields(`AddARPNeighbors Check Version CloseStdin CopyFile CreateContainer
		CreateSandbox DestroySandbox ExecProcess GetGuestDetails GetMetrics GetOOMEvent ListInterfaces ListRoutes
		ListProcesses MemHotplugByProbe OnlineCPUMem PauseContainer ReadStderr ReadStdout ReseedRandomDev
		RemoveContainer ResumeContainer SetGuestDateTime SignalProcess StartContainer StartTracing StatsContainer
		StopTracing TtyWinResize UpdateContainer UpdateInterface UpdateRoutes WaitProcess WriteStdin
		UpdateEphemeralMounts RemoveStaleVirtiofsShareMounts GetDiagnosticData GetIPTables SetIPTables
		MemAgentMemcgSet MemAgentCompactSet AddSwap AddSwapPath GetVolumeStats ResizeVolume SetPolicy`) {
		if _, err := p.Parse(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range p.names {
		if p.about[name] == "" {
			t.Errorf("nothing is said about %s", name)
		}
		if text, err := p.helpOn(name); err != nil || !strings.HasPrefix(text, name+" (") {
			t.Errorf("help %s: %q, %v", name, text, err)
		}
	}
	if len(p.about) != len(p.names) {
		t.Errorf("%d descriptions of %d calls", len(p.about), len(p.names))
	}
}

func TestWrongLinesSayWhatIsMeant(t *testing.T) {
	p := NewParser()
	for line, want := range map[string]string{
		"check":                               "did you mean Check?",
		"StratContainer":                      "did you mean StartContainer?",
		"Stats":                               "did you mean StatsContainer?",
		"qiut":                                "did you mean quit?",
		"Frobnicate":                          "the command list shows all",
		"StartContainer cdi=x":                "did you mean cid?",
		"StartContainer contaner_id=x":        "did you mean container_id?",
		"Version x=1":                         `there is no key "x", only service`,
		"GetMetrics x=1":                      "the call takes none",
		"StartContainer x":                    `"x" is neither key=value`,
		"StartContainer =x":                   "neither key=value",
		"StartContainer spec=/x":              `there is no key "spec"`,
		"SignalProcess signal=NOPE":           `"NOPE" is no signal`,
		"SignalProcess signal=RTMIN+99":       "is no signal",
		"SignalProcess signal=-1":             "is no signal",
		"ReadStdout len=many":                 `len: "many" is not a number`,
		`CreateContainer json://{"x": 1}`:     `unknown field "x"`,
		"CreateContainer json://":             "nothing follows json://",
		`CreateContainer json://{} json://{}`: "there is a request already",
		`CreateContainer json://{} ./file`:    "there is a request already",
		"CreateContainer spec=http://x/y":     "is not a file:// URL",
		"CreateContainer spec=":               "it names no file",
		`CreateContainer args='"x'`:           "args: quote",
		`CreateContainer args=""`:             "args: it names no program",
		`StartContainer a.json b.json`:        "there is a request already",
		"repeat":                              `"" is not how often`,
		"repeat 0 Check":                      `"0" is not how often`,
		"repeat 2 Chek":                       "did you mean Check?",
		"sleep":                               `"" is not a duration`,
		"sleep -1s":                           `"-1s" is not a duration`,
		"sleep 1s 2s":                         `"2s" is too much`,
		"list x":                              "takes no arguments",
		"quit now":                            "takes no arguments",
		"help a b":                            "one command at most",
		"help Chek":                           "did you mean Check?",
		"CreateContainer OCI.Process.Nope=1":  `unknown field "Nope"`,
		`echo "a`:                             "does not end",
	} {
		c, err := p.Parse(line)
		var usage *UsageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), line) {
			t.Errorf("%s: %v, %v; want %s", line, c, err, want)
		}
	}
}

func TestSignals(t *testing.T) {
	for text, want := range map[string]string{
		"9": "9", "0x9": "0x9", "KILL": "9", "SIGKILL": "9", "sigusr1": "10", "usr2": "12", "RTMIN": "32", "SIGRTMIN+2": "34", "rtmax-1": "63",
	} {
		if got, err := signalNumber(text); got != want || err != nil {
			t.Errorf("%s is %s, %v; want %s", text, got, err, want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{"0": 0, "1500": 1500, "2s": 2 * time.Second, "1m30s": 90 * time.Second} {
		if got, err := ParseDuration(text); got != want || err != nil {
			t.Errorf("%s is %s, %v; want %s", text, got, err, want)
		}
	}
	for _, wrong := range []string{"", "x", "-1", "-1s", "99999999999999999999"} {
		if got, err := ParseDuration(wrong); err == nil {
			t.Errorf("%q is %s", wrong, got)
		}
	}
}

func TestComplete(t *testing.T) {
	p := NewParser()
	for _, tt := range []struct {
		line  string
		start int
		want  []string
	}{
		{"Che", 0, []string{"Check"}},
		{"StartC", 0, []string{"StartContainer"}},
		{"re", 0, []string{"repeat"}},
		{"repeat 3 Chec", 9, []string{"Check"}},
		{"repeat ", 7, nil},
		{"help Wai", 5, []string{"WaitProcess"}},
		{"help Check x", 11, nil},
		{"Nope x", 5, nil},
		{"echo x", 5, nil},
		{"StartContainer c", 15, []string{"cid=", "container_id="}},
		{"SignalProcess signal=SIGK", 14, []string{"signal=SIGKILL"}},
		{"ExecProcess cid=a s", 18, []string{"spec=", "stderr_port=", "stdin_port=", "stdout_port=", "string_user.", "string_user="}},
		{"ExecProcess string_user.g", 12, []string{"string_user.gid="}},
		{"ExecProcess process.User.U", 12, []string{"process.User.UID=", "process.User.Umask=", "process.User.Username="}},
		{"ExecProcess nope.x", 12, nil},
		{"Check j", 6, []string{"json://"}},
	} {
		start, got := p.Complete(tt.line)
		if start != tt.start || !slices.Equal(got, tt.want) {
			t.Errorf("%q: %d, %s", tt.line, start, cmp.Diff(tt.want, got))
		}
	}
	if _, all := p.Complete(""); len(all) != len(p.all()) {
		t.Errorf("%d of %d commands at the beginning", len(all), len(p.all()))
	}
}
