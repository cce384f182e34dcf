/*
 * The floor: what mapping memory for a device costs with nothing but the ioctls.
 *
 * usage: floor type1v2 GROUP DEVICE CASE...     (/dev/vfio/7 0000:01:00.0)
 *        floor iommufd CDEV CASE...             (/dev/vfio/devices/vfio0)
 *
 * A case is SIZE:COUNT:STEP:PAIRS in bytes: COUNT ranges of SIZE bytes, STEP apart in IOVA and next
 * to each other in memory, are mapped one by one and then unmapped one by one, PAIRS / COUNT times.
 * For each case a line of JSON is printed: {"case": "4096:1:4096:1000", "ns": nanoseconds a pair}.
 *
 * Static and without headers of VFIO: guests have no compiler, and a machine's headers may be older
 * than its kernel.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/types.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#define FIRST_IOVA (1ULL << 32)
#define HUGE_PAGE (2UL << 20)
#define ARENA (40UL << 20)
#define VFIO(number) _IO(';', 100 + (number))
#define IOMMUFD(number) _IO(';', 0x80 + (number))

enum {
	VFIO_SET_IOMMU = VFIO(2),
	VFIO_GROUP_SET_CONTAINER = VFIO(4),
	VFIO_GROUP_GET_DEVICE_FD = VFIO(6),
	VFIO_IOMMU_MAP_DMA = VFIO(13),
	VFIO_IOMMU_UNMAP_DMA = VFIO(14),
	VFIO_DEVICE_BIND_IOMMUFD = VFIO(18),
	VFIO_DEVICE_ATTACH_IOMMUFD_PT = VFIO(19),
	IOMMU_IOAS_ALLOC = IOMMUFD(1),
	IOMMU_IOAS_MAP = IOMMUFD(5),
	IOMMU_IOAS_UNMAP = IOMMUFD(6),
	VFIO_TYPE1v2_IOMMU = 3,
	READ_WRITE = 3,
	FIXED_READ_WRITE = 7,
};

struct type1_map { __u32 argsz, flags; __u64 vaddr, iova, size; };
struct type1_unmap { __u32 argsz, flags; __u64 iova, size; };
struct bind { __u32 argsz, flags; __s32 iommufd; __u32 devid; };
struct attach { __u32 argsz, flags, pt_id; };
struct ioas_alloc { __u32 size, flags, ioas_id; };
struct ioas_map { __u32 size, flags, ioas_id, reserved; __u64 vaddr, length, iova; };
struct ioas_unmap { __u32 size, ioas_id; __u64 iova, length; };

static int space;      /* the container, or /dev/iommu */
static __u32 ioas_id;  /* 0 for a container */

static void must(int answer, const char *what)
{
	if (answer < 0) {
		perror(what);
		exit(1);
	}
}

static int must_open(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	must(fd, path);
	return fd;
}

/* -- the ways to an address space ------------------------------------------------------------ */
static void open_container(const char *group_path, const char *device)
{
	int group = must_open(group_path);

	space = must_open("/dev/vfio/vfio");
	must(ioctl(group, VFIO_GROUP_SET_CONTAINER, &space), "VFIO_GROUP_SET_CONTAINER");
	must(ioctl(space, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "VFIO_SET_IOMMU");
	must(ioctl(group, VFIO_GROUP_GET_DEVICE_FD, device), "VFIO_GROUP_GET_DEVICE_FD");
}

static void open_ioas(const char *cdev_path)
{
	int cdev = must_open(cdev_path);
	struct ioas_alloc alloc = { .size = sizeof(alloc) };
	struct bind bind = { .argsz = sizeof(bind) };
	struct attach attach = { .argsz = sizeof(attach) };

	space = must_open("/dev/iommu");
	bind.iommufd = space;
	must(ioctl(cdev, VFIO_DEVICE_BIND_IOMMUFD, &bind), "VFIO_DEVICE_BIND_IOMMUFD");
	must(ioctl(space, IOMMU_IOAS_ALLOC, &alloc), "IOMMU_IOAS_ALLOC");
	attach.pt_id = ioas_id = alloc.ioas_id;
	must(ioctl(cdev, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach), "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
}

/* -- one range ------------------------------------------------------------------------------- */
static void map(__u64 iova, __u64 vaddr, __u64 size)
{
	if (ioas_id) {
		struct ioas_map arg = {
			.size = sizeof(arg), .flags = FIXED_READ_WRITE, .ioas_id = ioas_id,
			.vaddr = vaddr, .length = size, .iova = iova,
		};

		must(ioctl(space, IOMMU_IOAS_MAP, &arg), "IOMMU_IOAS_MAP");
	} else {
		struct type1_map arg = {
			.argsz = sizeof(arg), .flags = READ_WRITE,
			.vaddr = vaddr, .iova = iova, .size = size,
		};

		must(ioctl(space, VFIO_IOMMU_MAP_DMA, &arg), "VFIO_IOMMU_MAP_DMA");
	}
}

static void unmap(__u64 iova, __u64 size)
{
	if (ioas_id) {
		struct ioas_unmap arg = {
			.size = sizeof(arg), .ioas_id = ioas_id, .iova = iova, .length = size,
		};

		must(ioctl(space, IOMMU_IOAS_UNMAP, &arg), "IOMMU_IOAS_UNMAP");
	} else {
		struct type1_unmap arg = { .argsz = sizeof(arg), .iova = iova, .size = size };

		must(ioctl(space, VFIO_IOMMU_UNMAP_DMA, &arg), "VFIO_IOMMU_UNMAP_DMA");
	}
}

/* -- measuring ------------------------------------------------------------------------------- */
static double now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

/*
 * What all cases map from: huge pages, so that memory that is next to each other here is so for the
 * kernel too; how many pieces it finds is most of what a large range costs.
 */
static char *arena(void)
{
	char *memory = mmap(NULL, ARENA + HUGE_PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		must(-1, "mmap");
	memory += -(size_t)memory % HUGE_PAGE;
	must(madvise(memory, ARENA, MADV_HUGEPAGE), "MADV_HUGEPAGE");
	memset(memory, 1, ARENA);
	return memory;
}

static double measure(const char *memory, size_t size, unsigned long count, size_t step,
		      unsigned long pairs)
{
	double start = now_ns();

	for (unsigned long round = 0; round < pairs / count; round++) {
		for (unsigned long i = 0; i < count; i++)
			map(FIRST_IOVA + i * step, (__u64)(memory + i * size), size);
		for (unsigned long i = 0; i < count; i++)
			unmap(FIRST_IOVA + i * step, size);
	}
	return (now_ns() - start) / pairs;
}

int main(int argc, char **argv)
{
	char *memory;
	int first = 4;

	if (argc > 3 && !strcmp(argv[1], "type1v2")) {
		open_container(argv[2], argv[3]);
	} else if (argc > 2 && !strcmp(argv[1], "iommufd")) {
		open_ioas(argv[2]);
		first = 3;
	} else {
		fprintf(stderr, "usage: floor type1v2 GROUP DEVICE CASE... | iommufd CDEV CASE...\n");
		return 2;
	}
	memory = arena();
	for (int i = first; i < argc; i++) {
		size_t size, step;
		unsigned long count, pairs;

		if (sscanf(argv[i], "%zu:%lu:%zu:%lu", &size, &count, &step, &pairs) != 4 ||
		    size * count > ARENA)
			return 2;
		measure(memory, size, count, step, count);  /* the kernel's caches are warm then */
		printf("{\"case\": \"%s\", \"ns\": %.1f}\n", argv[i],
		       measure(memory, size, count, step, pairs));
	}
	return 0;
}
