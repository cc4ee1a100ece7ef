package agent

import (
	"context"
	"path"
	"strings"

	"kata/api/agentpb"
	"kata/api/csipb"
	"kata/guest/storage"
	"kata/guest/storage/sharedfile"
	"kata/guest/storage/volume"
	"kata/lib/fmt"
)

// registerVolumes registers the calls about what is mounted.
func (s *Service) registerVolumes(agent agentpb.AgentServiceRegistrar) {
	agent.UpdateEphemeralMounts(s.updateEphemeralMounts)
	agent.GetVolumeStats(s.getVolumeStats)
	agent.ResizeVolume(s.resizeVolume)
	agent.RemoveStaleVirtiofsShareMounts(s.removeStaleVirtiofsShareMounts)
}

// updateEphemeralMounts changes the limits of tmpfs storages.
func (s *Service) updateEphemeralMounts(_ context.Context, req *agentpb.UpdateEphemeralMountsRequest) (*agentpb.Empty, error) {
	if len(req.Storages) == 0 {
		return nil, invalid("storages", "", "is missing")
	}
	list := make([]volume.Limits, len(req.Storages))
	for i, st := range req.Storages {
		field := func(name string) string { return fmt.Sprintf("storages[%d]: %s", i, name) }
		switch point := path.Clean(st.GetMountPoint()); {
		case st.GetDriver() != "ephemeral":
			return nil, invalid(field("driver"), st.GetDriver(), "is not ephemeral, the only one whose storages can change")
		case st.Fstype != "" && st.Fstype != "tmpfs":
			return nil, invalid(field("fstype"), st.Fstype, "is not tmpfs")
		case len(st.DriverOptions) != 0:
			return nil, invalid(field("driver_options"), st.DriverOptions[0], "is unknown to driver ephemeral")
		case checkPath("", st.MountPoint) != nil || !strings.HasPrefix(point, storage.Root+"/"):
			return nil, invalid(field("mount_point"), st.MountPoint, "is not a path below "+storage.Root)
		default:
			list[i] = volume.Limits{Path: point, Options: st.Options}
		}
	}
	if err := s.needInit("change mounts"); err != nil {
		return nil, err
	}
	return empty(volume.Limit(list))
}

// getVolumeStats answers in the way of CSI's NodeGetVolumeStats.
func (s *Service) getVolumeStats(_ context.Context, req *agentpb.VolumeStatsRequest) (*csipb.VolumeStatsResponse, error) {
	if err := checkPath("volume_guest_path", req.VolumeGuestPath); err != nil {
		return nil, err
	}
	stats, err := volume.Measure(req.VolumeGuestPath)
	if err != nil {
		return nil, err
	}
	usage := func(u volume.Usage, unit csipb.VolumeUsage_Unit) *csipb.VolumeUsage {
		return &csipb.VolumeUsage{Total: u.Total, Used: u.Used, Available: u.Available, Unit: unit}
	}
	condition := &csipb.VolumeCondition{Message: "OK"} // upstream's word
	if stats.Problem != "" {
		condition = &csipb.VolumeCondition{Abnormal: true, Message: stats.Problem}
	}
	return &csipb.VolumeStatsResponse{
		Usage: []*csipb.VolumeUsage{
			usage(stats.Bytes, csipb.VolumeUsage_BYTES), usage(stats.Inodes, csipb.VolumeUsage_INODES),
		},
		VolumeCondition: condition,
	}, nil
}

// maxVolume is what a file offset can address.
const maxVolume = 1<<63 - 1

func (s *Service) resizeVolume(ctx context.Context, req *agentpb.ResizeVolumeRequest) (*agentpb.Empty, error) {
	if err := checkPath("volume_guest_path", req.VolumeGuestPath); err != nil {
		return nil, err
	}
	if req.Size == 0 || req.Size > maxVolume {
		return nil, invalid("size", req.Size, "is not a size in bytes")
	}
	if err := s.needInit("resize a volume"); err != nil {
		return nil, err
	}
	err := volume.Resize(ctx, req.VolumeGuestPath, req.Size, s.cfg.Devices.Timeout())
	return empty(err)
}

// removeStaleVirtiofsShareMounts forgets what the host shared and no longer does.
func (s *Service) removeStaleVirtiofsShareMounts(ctx context.Context, _ *agentpb.RemoveStaleVirtiofsShareMountsRequest) (*agentpb.Empty, error) {
	if err := s.needInit("unmount what the host has removed"); err != nil {
		return nil, err
	}
	return empty(volume.ForgetStale(ctx, sharedfile.Root))
}
