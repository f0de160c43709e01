"""Pure scorers, one benchmark or statistic per file: arrays or data frames in, ``dict[str, float]`` out.

They know no configuration, no files and no models; reading rows and writing results is the stages' business.

A NaN reward never beats anything: where a metric is made of strict comparisons (`pairs`, `reward_bench`, `rm_bench`)
it counts as an error, as in the official scorers. Where a metric needs an order of all the rewards (`kendall`,
`reward_bench_2`, `best_of_n`) a NaN has no meaning and raises `ValueError`.
"""
