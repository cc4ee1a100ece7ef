package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/guest/fault"
	"kata/guest/machine/device/assign"
	"kata/guest/storage"
	"kata/lib/fmt"
)

// needInit refuses what changes the machine when it is not the agent's.
func (s *Service) needInit(what string) error {
	if s.cfg.Init {
		return nil
	}
	return fault.New(fault.State, what+": the agent is not the init of this machine")
}

func (s *Service) setGuestDateTime(_ context.Context, req *agentpb.SetGuestDateTimeRequest) (*agentpb.Empty, error) {
	if req.Sec <= 0 {
		return nil, invalid("Sec", req.Sec, "is not a time since the epoch in seconds")
	}
	if req.Usec < 0 || req.Usec >= 1e6 {
		return nil, invalid("Usec", req.Usec, "is not a part of a second in microseconds")
	}
	if err := s.needInit("set the clock"); err != nil {
		return nil, err
	}
	err := unix.Settimeofday(&unix.Timeval{Sec: req.Sec, Usec: req.Usec})
	if errors.Is(err, unix.EINVAL) {
		return nil, invalid("Sec", req.Sec, "is not a time that the kernel takes: it is before the machine was started, or beyond 2232")
	}
	if err != nil {
		return nil, fmt.Errorf("set the clock to %d.%06d: %w", req.Sec, req.Usec, err)
	}
	return &agentpb.Empty{}, nil
}

// maxSeed is more than the kernel's pool holds.
const maxSeed = 64 << 10

// reseedRandomDev adds the host's entropy to the kernel's and makes the
// generator use it (random(4)).
func (s *Service) reseedRandomDev(_ context.Context, req *agentpb.ReseedRandomDevRequest) (*agentpb.Empty, error) {
	if len(req.Data) == 0 {
		return nil, invalid("data", "", "is missing")
	}
	if len(req.Data) > maxSeed {
		return nil, invalid("data", len(req.Data), "is more bytes than 65536")
	}
	if err := s.needInit("reseed the random number generator"); err != nil {
		return nil, err
	}
	file, err := os.OpenFile("/dev/random", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	err = addEntropy(file, req.Data)
	return empty(errors.Join(err, file.Close()))
}

func addEntropy(random *os.File, data []byte) error {
	// struct rand_pool_info: bits, bytes, the bytes (include/uapi/linux/random.h).
	info := make([]byte, 8, 8+len(data))
	binary.NativeEndian.PutUint32(info[0:], uint32(len(data)*8))
	binary.NativeEndian.PutUint32(info[4:], uint32(len(data)))
	info = append(info, data...)
	fd := random.Fd()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0]))); errno != 0 {
		return os.NewSyscallError("RNDADDENTROPY", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.RNDRESEEDCRNG, 0); errno != 0 {
		return os.NewSyscallError("RNDRESEEDCRNG", errno)
	}
	return nil
}

const memoryDir = "/sys/devices/system/memory"

func (s *Service) getGuestDetails(_ context.Context, req *agentpb.GuestDetailsRequest) (*agentpb.GuestDetailsResponse, error) {
	// SupportsSeccomp would make upstream's shim send profiles that somebody has
	// to compile; here the host does that, and the extra feature tells it so.
	resp := &agentpb.GuestDetailsResponse{AgentDetails: &agentpb.AgentDetails{
		Version: s.cfg.Version, InitDaemon: s.cfg.Init, StorageHandlers: storage.Drivers(), DeviceHandlers: assign.Types(),
		ExtraFeatures: []string{"seccomp-filters"},
	}}
	if req.MemBlockSize {
		text, err := os.ReadFile(memoryDir + "/block_size_bytes")
		switch {
		case errors.Is(err, os.ErrNotExist): // a kernel without memory hotplug: 0
		case err != nil:
			return nil, err
		default:
			if resp.MemBlockSizeBytes, err = strconv.ParseUint(string(bytes.TrimSpace(text)), 16, 64); err != nil {
				return nil, fmt.Errorf("%s/block_size_bytes: %w", memoryDir, err)
			}
		}
	}
	if req.MemHotplugProbe {
		_, err := os.Stat(memoryDir + "/probe")
		resp.SupportMemHotplugProbe = err == nil
	}
	return resp, nil
}
