package ocispec

import (
	"math"
	"path"
	"strings"
	"time"

	"kata/api/ocipb"
	"kata/guest/container/hooks"
)

func parseHooks(given *ocipb.Hooks) (set hooks.Set, err error) {
	if given == nil {
		return set, nil
	}
	for k, all := range [len(set)][]*ocipb.Hook{
		hooks.Prestart: given.Prestart, hooks.CreateRuntime: given.CreateRuntime, hooks.CreateContainer: given.CreateContainer,
		hooks.StartContainer: given.StartContainer, hooks.Poststart: given.Poststart, hooks.Poststop: given.Poststop,
	} {
		for i, h := range all {
			hook, problem := parseHook(h)
			if problem != nil {
				return set, errorf("hooks.%s[%d].%v", hooks.Kind(k).String(), i, problem)
			}
			set[k] = append(set[k], hook)
		}
	}
	return set, nil
}

func parseHook(h *ocipb.Hook) (hook hooks.Hook, problem error) {
	if p := h.GetPath(); !path.IsAbs(p) || hasZero(p) {
		return hook, errorf("path %q is not an absolute path", p)
	}
	if h.Timeout < 0 {
		return hook, errorf("timeout %d is not above 0", h.Timeout)
	}
	for i, arg := range h.Args {
		if hasZero(arg) {
			return hook, errorf("args[%d] %q holds a zero byte", i, arg)
		}
	}
	for i, pair := range h.Env {
		if strings.IndexByte(pair, '=') < 1 || hasZero(pair) {
			return hook, errorf("env[%d] %q is not a variable and its value", i, pair)
		}
	}
	hook = hooks.Hook{Path: h.Path, Args: h.Args, Env: h.Env}
	if h.Timeout <= int64(math.MaxInt64/time.Second) { // longer is as long as it likes
		hook.Timeout = time.Duration(h.Timeout) * time.Second
	}
	return hook, nil
}
