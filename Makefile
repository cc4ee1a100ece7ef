# Everything a developer or a CI machine runs. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

GO        ?= go
# One Go version for everybody: the agent's runtime overlay is made for it. A go
# command of another version fetches it by itself.
export GOTOOLCHAIN := $(shell sed -nE 's/^toolchain //p' go.mod)
# The version is said by VERSION; a clone of another owner's must build too.
export GOFLAGS := $(GOFLAGS) -buildvcs=false
GOFLAGS_  := -trimpath -tags no_grpc
VERSION   := $(shell sed -nE 's/^const Version = "(.*)"/\1/p' host/version/version.go)
COMMIT    ?= $(shell git describe --match= --always --abbrev=40 --dirty 2>/dev/null || echo unknown)
LDFLAGS_  := -s -w -X main.version=$(VERSION) -X kata/host/version.commit=$(COMMIT)
COMMANDS  := $(notdir $(wildcard cmd/*))
BIN       := bin

PREFIX     ?= /usr/local
DESTDIR    ?=
BINDIR     := $(PREFIX)/bin
GUESTDIR   := /usr/share/kata-containers
DEFAULTDIR := /usr/share/defaults/kata-containers

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    ?= 200000x

# What is needed of the distribution: to run containers, to compile the guest's
# kernel, and to test.
RUN_PACKAGES    := busybox-static containerd qemu-system-common qemu-system-x86 runc
KERNEL_PACKAGES := bc bison build-essential cpio flex libelf-dev linux-source-6.1 lz4 xz-utils
TEST_PACKAGES   := containernetworking-plugins e2fsprogs erofs-utils git iproute2 iptables libseccomp-dev mmdebstrap xfsprogs
PACKAGES        := $(RUN_PACKAGES) $(KERNEL_PACKAGES) $(TEST_PACKAGES)

# The demo's kernel: auto is the purpose-built one if the cache has it, else the
# distribution's; build compiles the former.
KERNEL          ?= auto
DEMO_KERNEL      = $(or $(and $(filter build,$(KERNEL)),-build),$(and $(filter package,$(KERNEL)),-from-package),-auto)
DEMO_COMMANDS   := kata-image kata-guest-iptables kata-agent kata-runtime containerd-shim-kata-v2

# The packages that have tests with the build tag vm.
VM_TESTS := ./test/agentvm ./test/observe ./test/hotplug ./host/vmm/... ./host/share/... ./test/vsock ./cmd/kata-agent-ctl

## Start here

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} \
		/^## / {printf "\n%s\n", substr($$0, 4)} \
		/^[a-zA-Z0-9_.-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: root
root:
	@[[ $$(id -u) -eq 0 ]] || { echo "make: containerd needs root: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

.PHONY: demo
demo: root ## run a container in its own VM under a private containerd, and show it [KERNEL=build]
	@begun=$$(date +%s); \
	$(MAKE) --no-print-directory setup PACKAGES="$(RUN_PACKAGES) $(if $(filter build,$(KERNEL)),$(KERNEL_PACKAGES))"; \
	$(MAKE) --no-print-directory build COMMANDS="$(DEMO_COMMANDS)"; \
	bin/kata-image all $(DEMO_KERNEL) -output build/demo >/dev/null; \
	tools/step "building the demo" $(GO) build $(GOFLAGS_) -o build/demo/demo ./test/demo; \
	build/demo/demo -guest build/demo; \
	echo "make demo: $$(($$(date +%s) - begun)) s in all"

.PHONY: test
test: root setup build guest lint test-unit test-oracle test-fuzz test-vm test-guest test-e2e test-clients test-kvm ## lint, and every test: unit, fuzz, with and in a VM, end to end

## Build

.PHONY: setup
setup: ## install what is missing from the distribution
	@command -v $(GO) >/dev/null || { echo "make: install Go first (the version in go.mod or newer)" >&2; exit 1; }
	@missing=(); for p in $(PACKAGES); do \
		[[ "$$(dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null)" == installed ]] || missing+=("$$p"); \
	done; \
	[[ $${#missing[@]} -eq 0 ]] && exit 0; \
	echo "from the distribution: $${missing[*]}"; mkdir -p build; \
	sudo=; status=(-o APT::Status-Fd=3); \
	[[ $$(id -u) -eq 0 ]] || { sudo=sudo; status=(); }; \
	apt() { tools/step -a build/setup.log "$$1" $$sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
		-o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$${status[@]}" "$${@:2}"; }; \
	install() { apt "installing" install --no-install-recommends "$${missing[@]}"; }; \
	install 2>/dev/null || { apt "reading the package lists" update && install; }

# What runs in the guest is built for size: without inlining and with functions close
# together, 0.3 MB; with a runtime for a small heap; and with the garbage collector
# that is not for many processors, 45 KB and some memory.
.PHONY: build
build: ## build the binaries into bin/
	@tools/step "preparing the agent's Go runtime" $(GO) build -o build/agentruntime ./tools/agentruntime; \
	overlay=$$(build/agentruntime -output build/_agentruntime); n=0; all=($(COMMANDS)); \
	for c in $(COMMANDS); do \
		flags=(-ldflags '$(LDFLAGS_)'); experiment=; \
		[[ $$c != kata-agent && $$c != kata-guest-* ]] || { experiment=nogreenteagc; \
			flags=(-overlay "$$overlay" -gcflags 'all=-l' -ldflags '$(LDFLAGS_) -funcalign=8'); }; \
		CGO_ENABLED=0 GOEXPERIMENT=$$experiment tools/step "building $$c ($$((++n)) of $${#all[@]})" $(GO) build $(GOFLAGS_) "$${flags[@]}" -o $(BIN)/$$c ./cmd/$$c; \
	done

.PHONY: guest
guest: build ## build the guest kernel (7 minutes, once) and the initrd into build/guest/
	@bin/kata-image all -output build/guest

.PHONY: guest-debug
guest-debug: build ## build the initrd with a shell for the debug console
	@bin/kata-image initrd -variant debug -output build/guest

.PHONY: generate
generate: ## write the generated code anew
	$(GO) generate ./...

.PHONY: install
install: build guest ## install under DESTDIR, commands under PREFIX
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(GUESTDIR) $(DESTDIR)$(DEFAULTDIR)
	install -m 0755 bin/containerd-shim-kata-v2 bin/kata-runtime bin/kata-agent-ctl $(DESTDIR)$(BINDIR)
	install -m 0644 build/guest/vmlinux $(DESTDIR)$(GUESTDIR)/vmlinux.container
	install -m 0644 build/guest/kata-initrd.img $(DESTDIR)$(GUESTDIR)/kata-containers-initrd.img
	install -m 0644 host/config/configuration-qemu.toml $(DESTDIR)$(DEFAULTDIR)/configuration.toml

## Test

# The race detector brings -d=checkptr, which checks conversions of unsafe.Pointer;
# tests inside a VM are compiled with it as well (test/vmtest).
.PHONY: test-unit
test-unit: ## unit tests with the race detector
	@echo "== unit tests"
	$(GO) test -race -tags no_grpc ./...

.PHONY: test-oracle
test-oracle: ## the seccomp compiler against libseccomp
	@echo "== tests against libseccomp"
	$(GO) test -tags no_grpc,oracle -count=1 -run Oracle ./host/seccomp

.PHONY: test-vm
test-vm: guest ## tests of the host's packages that boot a VM
	@echo "== tests with a VM"
	KATA_TEST_KERNEL=$(CURDIR)/build/guest/vmlinux $(GO) test -tags no_grpc,vm -count=1 -timeout 30m $(VM_TESTS)

.PHONY: test-guest
test-guest: guest ## tests of the guest's packages, as root inside a VM
	@echo "== tests inside a VM"
	$(GO) run ./test/vmtest ./guest/...

.PHONY: vmtest
vmtest: guest ## the same for PKG=./guest/some/package [ARGS="-test.run X"]
	$(GO) run ./test/vmtest $(PKG) $(if $(ARGS),-- $(ARGS))

.PHONY: test-e2e
test-e2e: build guest ## containers under a real containerd [RUN=pattern]
	@echo "== end-to-end tests"
	$(GO) test -tags no_grpc,e2e -count=1 -timeout 40m -v $(if $(RUN),-run '$(RUN)') ./test/e2e

.PHONY: test-clients
test-clients: build guest ## containerd's own client tests with our shim [ONLY=pattern] [LOG=file] [RUNTIME=io.containerd.runc.v2]
	@echo "== containerd's client tests"
	$(GO) test -tags no_grpc,clients -count=1 -timeout 60m -v ./test/clientsuite -args $(if $(LOG),-log $(abspath $(LOG))) $(if $(ONLY),-only '$(ONLY)') $(if $(RUNTIME),-runtime $(RUNTIME))

# End-to-end tests that show what could differ under KVM.
KVM_TESTS := KVMIs|BothStreams|ExitStatus|SIGKILLEnds|SIGTERMReaches|TenExecs|Paused|Metrics|TerminalHas|TaskEndsWithAnError|EveryPartOfAPod|StdinEnds

.PHONY: test-kvm
test-kvm: build guest ## end-to-end tests on an emulated machine that has KVM [RUN=pattern]
	@echo "== end-to-end tests under an emulated KVM"
	$(GO) run ./test/kvm -run '$(or $(RUN),$(KVM_TESTS))' -- -test.timeout 25m -runtime kata -limit 5m

# Each package's fuzz targets are compiled once; inputs that were interesting are
# kept below the user's cache folder and lengthen the next run's reach. Inputs are
# counted, not timed: before Go 1.27 a run that ends by its deadline can report the
# deadline as a failure (go.dev/issue/75804).
.PHONY: fuzz
fuzz: ## run every fuzz target FUZZTIME times (200000x)
	@echo "== fuzz targets, $(FUZZTIME) each"
	@mkdir -p build/_fuzz; cache=$${XDG_CACHE_HOME:-$$HOME/.cache}/kata-fuzz; \
	for dir in $$(git grep -lE '^func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u); do \
		program=$(CURDIR)/build/_fuzz/$${dir//\//_}.test; \
		$(GO) test -tags no_grpc -c -fuzz=. -o "$$program" "./$$dir"; \
		for target in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*).*/\1/p' "$$dir"/*_test.go); do \
			echo "$$dir $$target"; \
			(cd "$$dir" && "$$program" -test.run '^$$' -test.fuzz "^$$target\$$" -test.fuzztime $(FUZZTIME) -test.fuzzminimizetime 100x \
				-test.fuzzcachedir "$$cache/$$dir" -test.timeout 10m > "$$program.log" 2>&1) || { cat "$$program.log"; exit 1; }; \
			tail -n 2 "$$program.log" | sed -n '/execs/s/^/  /p'; \
		done; \
	done

.PHONY: test-fuzz
test-fuzz: ## every fuzz target with 20,000 inputs, a second or two for most
	@$(MAKE) --no-print-directory fuzz FUZZTIME=20000x

.PHONY: lint
lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [[ -z "$$unformatted" ]] || { echo "gofmt: $$unformatted" >&2; exit 1; }
	$(GO) vet -tags no_grpc ./...
	$(GO) vet -tags no_grpc,e2e,bench,clients,kvm,vm,vmtest,oracle ./...
	$(GO) run $(STATICCHECK) -tags no_grpc ./...
	$(GO) run $(STATICCHECK) -tags no_grpc,e2e,bench,clients,kvm,vm,vmtest,oracle ./...

## Measure

.PHONY: bench
bench: setup build guest ## print the figures of SPECIFICATION.md
	@$(GO) test -tags no_grpc,bench -count=1 -timeout 30m -run '^$$' -bench . -benchtime 1x ./test/bench
	@$(MAKE) --no-print-directory bench-agent

.PHONY: bench-agent
bench-agent: build guest ## the agent's size, its memory before and after load, its calls
	@$(GO) test -tags no_grpc,bench -count=1 -timeout 30m -run '^$$' -bench Agent -benchtime 1x ./test/agentvm
	@echo; echo "allocations of the agent's program for each call:"
	@$(GO) test -tags no_grpc -count=1 -run '^$$' -bench Calls -benchtime 500x ./cmd/kata-agent

.PHONY: bench-start bench-exec bench-stdout bench-memory
bench-start bench-exec bench-stdout bench-memory: bench-%: build guest ## one of the figures
	@$(GO) test -tags no_grpc,bench -count=1 -timeout 30m -run '^$$' -bench '(?i)^Benchmark$*' -benchtime 1x ./test/bench

.PHONY: bench-vsock
bench-vsock: guest ## the raw vsock stream, to compare bench-stdout with
	KATA_TEST_KERNEL=$(CURDIR)/build/guest/vmlinux $(GO) test -tags no_grpc,vm -run '^$$' -bench . ./test/vsock

## Clean

.PHONY: clean
clean: ## remove bin/ and build/; the cache of kernels stays
	rm -rf bin build

.PHONY: clean-run
clean-run: ## remove what runs that died have left: daemons, VMs, mounts, directories
	@$(GO) run ./test/cleanrun
