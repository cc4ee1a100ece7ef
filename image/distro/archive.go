package distro

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"kata/api"
	"kata/image/initrd"
)

// atBoot are the modules that a guest loads at its boot, in this order, unless the
// kernel has them built in or does not have them at all: what a pod's devices and
// file systems need, and what a container may use unasked. Each costs the boot of an
// emulated guest 10 to 20 ms (xfs 700), so the rest is onDemand.
func atBoot() []string {
	return strings.Fields(`
		virtio_pci virtio_mmio virtio_console virtio_rng
		vmw_vsock_virtio_transport
		fuse virtiofs overlay
		virtio_blk virtio_scsi sd_mod
		virtio_net virtio_balloon virtio_mem
		virtio_pmem nd_pmem nfit
		9p 9pnet_virtio erofs ext4
		veth tun`)
}

// onDemand are modules that a pod may ask for by name (kernel_modules), if the kernel
// has them. The files of those that nobody has asked for are removed before there
// are containers, but the host does not get their pages back: big ones, as xfs (4
// MB), are for Options.More.
func onDemand() []string {
	return strings.Fields(`
		loop squashfs binfmt_misc dummy bridge br_netfilter 8021q macvlan ipvlan
		ip_tables iptable_filter iptable_nat iptable_mangle iptable_raw
		ip6_tables ip6table_filter ip6table_nat ip6table_mangle ip6table_raw
		xt_tcpudp xt_conntrack xt_comment xt_multiport xt_addrtype xt_mark xt_connmark
		xt_nat xt_MASQUERADE xt_REDIRECT xt_TPROXY xt_TCPMSS xt_CT xt_limit xt_state
		xt_owner xt_recent xt_statistic ipt_REJECT ip6t_REJECT
		nf_tables nft_ct nft_chain_nat nft_nat nft_masq nft_redir nft_compat nft_limit
		nft_reject_inet nft_fib_inet inet_diag tcp_diag unix_diag sch_ingress`)
}

// required are those of atBoot without which there is no guest.
func required() []string {
	return []string{"virtio_pci", "vmw_vsock_virtio_transport", "virtiofs", "overlay"}
}

// archive returns a cpio archive with the modules and their list, to be put after
// an initrd's; nil if nothing is to be loaded. More are modules that a pod may ask
// for by name; they have to be there.
func archive(ctx context.Context, t *tree, more []string) ([]byte, error) {
	a := &builder{folder: strings.TrimPrefix(api.ModuleDir, "/"), has: make(map[string]bool)}
	for _, row := range []struct {
		when  string
		names []string
		must  []string
	}{{"boot", atBoot(), required()}, {"more", onDemand(), nil}, {"more", more, more}} {
		for _, name := range row.names {
			err := a.add(ctx, t, row.when, name)
			if errors.Is(err, fs.ErrNotExist) && !slices.Contains(row.must, name) {
				continue
			}
			if err != nil {
				return nil, err
			}
		}
	}
	if len(a.entries) == 0 {
		return nil, nil
	}
	for dir := a.folder; dir != "."; dir = path.Dir(dir) {
		a.entries = append(a.entries, initrd.Dir(dir, 0o755))
	}
	fmt.Fprintln(&a.list, "built", strings.Join(slices.Sorted(maps.Keys(t.builtin)), " "))
	a.entries = append(a.entries, initrd.File(a.folder+"/"+api.ModuleList, 0o644, a.list.Bytes()))
	var out bytes.Buffer
	if err := initrd.Write(&out, a.entries); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// builder gathers the files of an archive.
type builder struct {
	folder  string
	has     map[string]bool
	list    bytes.Buffer
	entries []initrd.Entry
}

// add adds a module and what it depends on; when is a word of the list's.
func (a *builder) add(ctx context.Context, t *tree, when, name string) error {
	all, err := t.resolve(ctx, name, nil)
	if err != nil {
		return err
	}
	for _, m := range all {
		if a.has[m.name] {
			continue
		}
		a.has[m.name] = true
		row, err := t.resolve(ctx, m.name, nil)
		if err != nil {
			return err
		}
		fmt.Fprintf(&a.list, "%s %s", when, m.name)
		for _, need := range row[:len(row)-1] {
			fmt.Fprintf(&a.list, " %s", need.name)
		}
		fmt.Fprintln(&a.list)
		a.entries = append(a.entries, initrd.File(a.folder+"/"+m.name+".ko", 0o644, m.data))
	}
	return nil
}
