"""Published claims, one file each: protocol, statistic, verdict, figure."""
